"""GPT-2: multi-head attention, learned positions, LayerNorm, biases everywhere, weights stored as [in, out]."""

from collections.abc import Sequence

from engine.models.config_fields import Config, Renamed, field, head_width, positive
from engine.models.family import Family, Published
from engine.models.kv_head_fields import mha_only
from engine.models.spec import DecoderSpec, EmbeddingSpec, LayerSpec
from engine.models.standard import read_decoder, read_layer, read_layer_norm, read_plain_mlp
from engine.models.tensor_names import TensorNames, tensors

FIELDS = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "n_inner": "intermediate_size",
    "activation_function": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
}
"""OpenAI's names -> Llama's."""

NAMES = TensorNames(
    layer_prefix="transformer.h.{}.",
    layer={
        "attention_norm": "ln_1",
        "qkv": tensors("attn.c_attn", is_transposed=True),
        "o": tensors("attn.c_proj", is_transposed=True),
        "mlp_norm": "ln_2",
        "up": tensors("mlp.c_fc", is_transposed=True),
        "down": tensors("mlp.c_proj", is_transposed=True),
    },
    top={
        "embed": "transformer.wte",
        "position_embed": "transformer.wpe",
        "norm": "transformer.ln_f",
        "lm_head": "lm_head",
    },
    optional_prefix="transformer.",
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(attention\.)?(masked_bias|bias|causal_mask)",),
)
"""Those who built on it kept most of these names, and the masks that its checkpoints hold."""


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a GPT2LMHeadModel."""
    config = Renamed(config, FIELDS)
    return read_gpt2(config, [_layer(config, i) for i in range(positive(config, "num_hidden_layers"))])


def read_gpt2(config: Config, layers: Sequence[LayerSpec]) -> DecoderSpec:
    """A decoder with learned positions and, where the config does not say, tied embeddings."""
    norm, embedding = read_layer_norm(config), EmbeddingSpec(has_positions=True)
    return read_decoder(config, layers, is_tied_by_default=True, norm=norm, embedding=embedding)


def read_scale(config: Config) -> float:
    """The softmax scale: 1 where the config turns it off."""
    is_scaled = field(config, "scale_attn_weights", bool, default=True)
    width = head_width(positive(config, "hidden_size"), positive(config, "num_attention_heads"))
    return width**-0.5 if is_scaled else 1.0


def _layer(config: Config, layer_idx: int) -> LayerSpec:
    scale = read_scale(config)
    if field(config, "scale_attn_by_inverse_layer_idx", bool, default=False):
        scale /= layer_idx + 1
    mlp = read_plain_mlp(config, "gelu_new")
    return read_layer(config, rope=None, mlp=mlp, softmax_scale=scale, has_qkv_bias=True, has_o_bias=True)


FAMILY = Family(
    architectures=("GPT2LMHeadModel",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "openai-community/gpt2", {"n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257}
    ),
    with_kv_heads=mha_only,
)
