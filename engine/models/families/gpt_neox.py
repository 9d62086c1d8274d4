"""GPT-NeoX and Pythia: attention and MLP side by side, a quarter of each head turns, LayerNorm and biases."""

from engine.models.config_fields import Config, Renamed, field, positive
from engine.models.family import Family, Published
from engine.models.kv_head_fields import mha_only
from engine.models.row_orders import grouped_qkv
from engine.models.spec import DecoderSpec
from engine.models.standard import read_decoder, read_layer, read_layer_norm, read_plain_mlp
from engine.models.tensor_names import TensorNames, tensors

NAMES = TensorNames(
    layer_prefix="gpt_neox.layers.{}.",
    layer={
        "attention_norm": "input_layernorm",
        "qkv": tensors("attention.query_key_value", order=grouped_qkv),
        "o": "attention.dense",
        "mlp_norm": "post_attention_layernorm",
        "up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
    },
    top={"embed": "gpt_neox.embed_in", "norm": "gpt_neox.final_layer_norm", "lm_head": "embed_out"},
    ignored=(r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a GPTNeoXForCausalLM."""
    names = {"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"}
    config = Renamed(config, names, {"partial_rotary_factor": 0.25})
    has_bias = field(config, "attention_bias", bool, default=True)
    layer = read_layer(config, mlp=read_plain_mlp(config, "gelu"), has_qkv_bias=has_bias, has_o_bias=has_bias)
    return read_decoder(
        config,
        [layer] * positive(config, "num_hidden_layers"),
        norm=read_layer_norm(config),
        is_parallel=field(config, "use_parallel_residual", bool, default=True),
    )


FAMILY = Family(
    architectures=("GPTNeoXForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "EleutherAI/pythia-1.4b",
        {
            "hidden_act": "gelu",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "max_position_embeddings": 2048,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "use_parallel_residual": True,
            "vocab_size": 50304,
        },
    ),
    with_kv_heads=mha_only,
)
