"""GPT-2: multi-head attention, learned positions, LayerNorm, biases everywhere, weights stored as [in, out]."""

from engine.models.config_fields import Config, activation, field, head_width, positive
from engine.models.family import Family, Published
from engine.models.spec import DecoderSpec, EmbeddingSpec, HeadSpec, LayerSpec, MLPSpec, NormKind, NormSpec
from engine.models.standard import read_is_tied
from engine.models.tensor_names import TensorNames, tensors

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
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",),
)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a GPT2LMHeadModel."""
    norm = NormSpec(NormKind.LAYER, field(config, "layer_norm_epsilon", float, 1e-5), has_bias=True)
    return DecoderSpec(
        architecture=config["architectures"][0],
        vocab_size=positive(config, "vocab_size"),
        hidden_size=positive(config, "n_embd"),
        max_position_embeddings=positive(config, "n_positions"),
        layers=tuple(_layer(config, layer_idx) for layer_idx in range(positive(config, "n_layer"))),
        norm=norm,
        head=HeadSpec(is_tied=read_is_tied(config, default=True), norm=norm),
        embedding=EmbeddingSpec(has_positions=True),
    )


def _layer(config: Config, layer_idx: int) -> LayerSpec:
    hidden_size, num_heads = positive(config, "n_embd"), positive(config, "n_head")
    head_dim = head_width(hidden_size, num_heads)
    scale = head_dim**-0.5 if field(config, "scale_attn_weights", bool, default=True) else 1.0
    if field(config, "scale_attn_by_inverse_layer_idx", bool, default=False):
        scale /= layer_idx + 1
    mlp = MLPSpec(
        intermediate_size=positive(config, "n_inner", 4 * hidden_size),
        activation=activation(config, "activation_function", "gelu_new"),
        is_gated=False,
        has_bias=True,
    )
    return LayerSpec(num_heads, num_heads, head_dim, head_dim, scale, mlp, has_qkv_bias=True, has_o_bias=True)


FAMILY = Family(
    architectures=("GPT2LMHeadModel",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "openai-community/gpt2", {"n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257}
    ),
)
