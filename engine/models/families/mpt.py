"""MPT: ALiBi, norms and projections without biases, queries, keys and values clipped in some."""

from typing import Any

from engine.models.alibi import alibi_slopes
from engine.models.config_fields import Config, Renamed, field, fields_of, only, positive
from engine.models.family import Family, Published
from engine.models.kv_head_fields import mha_only
from engine.models.spec import DecoderSpec, LayerSpec
from engine.models.standard import read_decoder, read_layer, read_layer_norm, read_plain_mlp
from engine.models.tensor_names import TensorNames

FIELDS = {
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_layers": "num_hidden_layers",
    "max_seq_len": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
}
NAMES = TensorNames(
    layer_prefix="transformer.blocks.{}.",
    layer={
        "attention_norm": "norm_1",
        "qkv": "attn.Wqkv",
        "o": "attn.out_proj",
        "mlp_norm": "norm_2",
        "up": "ffn.up_proj",
        "down": "ffn.down_proj",
    },
    top={"embed": "transformer.wte", "norm": "transformer.norm_f", "lm_head": "lm_head"},
)


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a MptForCausalLM."""
    config = Renamed(config, FIELDS)
    only(config, "expansion_ratio", 4)
    only(config, "logit_scale", None)
    only(config, "no_bias", True)
    only(config, "learned_pos_emb", True, False)  # Set in most checkpoints; none has the table, because of ALiBi.
    only(config, "norm_type", "low_precision_layernorm", "layernorm")
    layers = [_layer(config)] * positive(config, "num_hidden_layers")
    return read_decoder(config, layers, is_tied_by_default=True, norm=read_layer_norm(config, has_bias=False))


def _layer(config: Config) -> LayerSpec:
    attention = fields_of(config, "attn_config")
    only(attention, "attn_type", "multihead_attention")
    only(attention, "alibi", True)
    for name in ("prefix_lm", "qk_ln", "attn_uses_sequence_id"):
        only(attention, name, False)
    bias_max = positive(attention, "alibi_bias_max", 8)
    changes: dict[str, Any] = {}
    if attention.get("softmax_scale") is not None:
        changes["softmax_scale"] = field(attention, "softmax_scale", float)
    return read_layer(
        config,
        rope=None,
        alibi_slopes=alibi_slopes(positive(config, "num_attention_heads"), bias_max),
        qkv_clip=field(attention, "clip_qkv", float, 0.0) or None,
        mlp=read_plain_mlp(config, "gelu", has_bias=False),
        **changes,
    )


FAMILY = Family(
    architectures=("MptForCausalLM",),
    build_spec=build_spec,
    tensor_names=NAMES,
    published=Published(
        "mosaicml/mpt-7b",
        {
            "attn_config": {"alibi": True, "alibi_bias_max": 8, "clip_qkv": None, "softmax_scale": None},
            "d_model": 4096,
            "expansion_ratio": 4,
            "max_seq_len": 2048,
            "n_heads": 32,
            "n_layers": 32,
            "no_bias": True,
            "vocab_size": 50432,
        },
    ),
    older_names=("MPTForCausalLM",),
    limits="Learned positions (alibi false) and multi-query attention are refused: transformers never implemented them.",
    with_kv_heads=mha_only,
)
