"""OpenELM: each layer has head counts and an MLP width of its own, queries and keys are normalised, embeddings tied."""

from engine.models.config_fields import Config, Renamed, activation, field, only, positive
from engine.models.family import Family, Published
from engine.models.kv_head_fields import kv_heads_field
from engine.models.layer_fields import of_layer
from engine.models.spec import DecoderSpec, LayerSpec, MLPSpec, QKNormSpec
from engine.models.standard import read_decoder, read_layer, read_rms_norm
from engine.models.tensor_names import TensorNames

FIELDS = {
    "activation_fn_name": "hidden_act",
    "max_context_length": "max_position_embeddings",
    "model_dim": "hidden_size",
    "num_kv_heads": "num_key_value_heads",
    "num_query_heads": "num_attention_heads",
    "num_transformer_layers": "num_hidden_layers",
    "rope_freq_constant": "rope_theta",
    "share_input_output_layers": "tie_word_embeddings",
}
DEFAULTS = {"ffn_dim_divisor": 256, "head_dim": 128}
BY_LAYER = ("num_query_heads", "num_kv_heads", "ffn_multipliers")


def build_spec(config: Config) -> DecoderSpec:
    """config.json of an OpenELMForCausalLM."""
    only(config, "normalization_layer_name", "rms_norm")
    num_layers = positive(config, "num_transformer_layers")
    layers = [
        _layer(Renamed(of_layer(config, BY_LAYER, layer_idx, num_layers), FIELDS, DEFAULTS))
        for layer_idx in range(num_layers)
    ]
    return read_decoder(Renamed(config, FIELDS), layers)


def _layer(config: Config) -> LayerSpec:
    has_qk_norm = field(config, "normalize_qk_projections", bool, default=False)
    mlp = MLPSpec(
        intermediate_size=_rounded(
            field(config, "ffn_multipliers", float) * positive(config, "hidden_size"),
            positive(config, "ffn_dim_divisor"),
        ),
        activation=activation(config, "hidden_act", "swish"),
        is_gated=field(config, "ffn_with_glu", bool, default=True),
    )
    return read_layer(config, mlp=mlp, qk_norm=QKNormSpec(read_rms_norm(config)) if has_qk_norm else None)


def _rounded(width: float, divisor: int) -> int:
    """The multiple of `divisor` that is nearest, but the next one where that is more than a tenth too small."""
    nearest = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * width else nearest


FAMILY = Family(
    architectures=("OpenELMForCausalLM",),
    build_spec=build_spec,
    tensor_names=TensorNames(
        layer_prefix="transformer.layers.{}.",
        layer={
            "attention_norm": "attn_norm",
            "qkv": "attn.qkv_proj",
            "q_norm": "attn.q_norm",
            "k_norm": "attn.k_norm",
            "o": "attn.out_proj",
            "mlp_norm": "ffn_norm",
            "gate_up": "ffn.proj_1",
            "up": "ffn.proj_1",
            "down": "ffn.proj_2",
        },
        top={"embed": "transformer.token_embeddings", "norm": "transformer.norm", "lm_head": "lm_head"},
        ignored=(r"transformer\.classifier\.weight",),
    ),
    published=Published(
        "apple/OpenELM-270M",
        {
            "ffn_dim_divisor": 256,
            "ffn_multipliers": [
                *(0.5, 0.73, 0.97, 1.2, 1.43, 1.67, 1.9, 2.13),
                *(2.37, 2.6, 2.83, 3.07, 3.3, 3.53, 3.77, 4.0),
            ],
            "head_dim": 64,
            "max_context_length": 2048,
            "model_dim": 1280,
            "normalize_qk_projections": True,
            "num_kv_heads": [3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5],
            "num_query_heads": [12, 12, 12, 12, 12, 16, 16, 16, 16, 16, 16, 16, 20, 20, 20, 20],
            "num_transformer_layers": 16,
            "share_input_output_layers": True,
            "vocab_size": 32000,
        },
    ),
    limits="`num_query_heads`, `num_kv_heads` and `ffn_multipliers` must be written out, as in every published config.json;"
    " they are not computed from `qkv_multipliers` and `num_gqa_groups`.",
    with_kv_heads=kv_heads_field("num_kv_heads"),
)
