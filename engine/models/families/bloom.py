"""BLOOM: ALiBi, a norm of the embeddings, LayerNorm and biases everywhere."""

from engine.models.alibi import alibi_slopes
from engine.models.config_fields import Config, Renamed, only, positive
from engine.models.families import gpt_neox
from engine.models.family import Family, Published
from engine.models.kv_head_fields import mha_only
from engine.models.row_orders import grouped_qkv
from engine.models.spec import DecoderSpec, EmbeddingSpec
from engine.models.standard import read_decoder, read_layer, read_layer_norm, read_plain_mlp
from engine.models.tensor_names import TensorNames, tensors

FIELDS = {
    "n_embed": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "seq_length": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
}
NAMES = TensorNames(
    layer_prefix="transformer.h.{}.",
    layer={
        **gpt_neox.NAMES.layer,
        "qkv": tensors("self_attention.query_key_value", order=grouped_qkv),
        "o": "self_attention.dense",
    },
    top={
        "embed": "transformer.word_embeddings",
        "embed_norm": "transformer.word_embeddings_layernorm",
        "norm": "transformer.ln_f",
        "lm_head": "lm_head",
    },
    optional_prefix="transformer.",
)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a BloomForCausalLM."""
    config = Renamed(config, FIELDS, {"max_position_embeddings": 2048})
    only(config, "apply_residual_connection_post_layernorm", False)
    only(config, "n_inner", 4 * positive(config, "hidden_size"))
    norm = read_layer_norm(config)
    layer = read_layer(
        config,
        rope=None,
        alibi_slopes=alibi_slopes(positive(config, "num_attention_heads")),
        mlp=read_plain_mlp(config, "gelu_pytorch_tanh"),
        has_qkv_bias=True,
        has_o_bias=True,
    )
    layers = [layer] * positive(config, "num_hidden_layers")
    return read_decoder(config, layers, is_tied_by_default=True, norm=norm, embedding=EmbeddingSpec(norm=norm))


FAMILY = Family(
    architectures=("BloomForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "bigscience/bloom-560m", {"n_embed": 1024, "n_layer": 24, "num_attention_heads": 16, "vocab_size": 250880}
    ),
    with_kv_heads=mha_only,
)
