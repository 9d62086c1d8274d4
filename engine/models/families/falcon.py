"""Falcon 7B (one key/value head), 40B, 180B and 11B (groups of heads), and RW (ALiBi, multi-head attention).

In 7B attention and MLP side by side both read one norm; the new architecture of 40B, 180B and 11B has groups of heads,
and one norm or two; Falcon-RW has ALiBi, biases, and attention before the MLP.
"""

from typing import Any

from engine.models.alibi import alibi_slopes
from engine.models.config_fields import Config, Renamed, field, only, positive
from engine.models.families import bloom
from engine.models.family import Family, Published
from engine.models.kv_head_fields import multi_query_flag
from engine.models.spec import DecoderSpec, LayerSpec
from engine.models.standard import read_decoder, read_heads, read_layer, read_layer_norm, read_plain_mlp
from engine.models.tensor_names import TensorNames

FIELDS = {
    "n_embed": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "activation": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
}


def tensor_names(config: Config) -> TensorNames:
    """BLOOM's names, but where attention and MLP that stand side by side have a norm each."""
    is_pair = _is_new(config) and _num_norms(config) == 2
    return bloom.NAMES.with_layer({"attention_norm": "ln_attn", "mlp_norm": "ln_mlp"} if is_pair else {})


def build_spec(config: Config) -> DecoderSpec:
    """config.json of a FalconForCausalLM."""
    config = Renamed(config, FIELDS, {"max_position_embeddings": 2048})
    only(config, "apply_residual_connection_post_layernorm", False)
    is_new = _is_new(config)
    only(config, "num_ln_in_parallel_attn", *((1, 2) if is_new else (1,)))
    if is_new:
        only(config, "parallel_attn", True)
    return read_decoder(
        config,
        [_layer(config)] * positive(config, "num_hidden_layers"),
        is_tied_by_default=True,
        norm=read_layer_norm(config),
        is_parallel=is_new or field(config, "parallel_attn", bool, default=True),
        has_shared_norm=_num_norms(config) == 1,
    )


def _layer(config: Config) -> LayerSpec:
    num_heads, num_kv_heads, head_dim = read_heads(config, _num_kv_heads(config))
    has_bias = field(config, "bias", bool, default=False)
    changes: dict[str, Any] = {}
    if field(config, "alibi", bool, default=False):
        # Falcon adds the bias first and scales the sum.
        changes = {"rope": None, "alibi_slopes": tuple(slope * head_dim**-0.5 for slope in alibi_slopes(num_heads))}
    mlp = read_plain_mlp(config, "gelu", has_bias=has_bias)
    return read_layer(config, num_kv_heads=num_kv_heads, mlp=mlp, has_qkv_bias=has_bias, has_o_bias=has_bias, **changes)


def _is_new(config: Config) -> bool:
    return field(config, "new_decoder_architecture", bool, default=False)


def _num_norms(config: Config) -> int:
    """Of a layer."""
    if _is_new(config):
        return positive(config, "num_ln_in_parallel_attn", 2)
    return 1 if field(config, "parallel_attn", bool, default=True) else 2


def _num_kv_heads(config: Config) -> int:
    num_heads = positive(config, "num_attention_heads")
    if _is_new(config):
        return positive(config, "num_kv_heads", num_heads)
    return 1 if field(config, "multi_query", bool, default=True) else num_heads


def with_kv_heads(config: Config, num_kv_heads: int) -> dict[str, Any]:
    """Any number in the new architecture, one or all in the older ones."""
    stated = {**config, "num_kv_heads": num_kv_heads}
    if _is_new(config):
        return stated
    return multi_query_flag(stated, num_kv_heads, positive(Renamed(config, FIELDS), "num_attention_heads"))


FAMILY = Family(
    architectures=("FalconForCausalLM",),
    build_spec=build_spec,
    tensor_names=tensor_names,
    published=Published(
        "tiiuae/falcon-7b",
        {
            "alibi": False,
            "bias": False,
            "hidden_size": 4544,
            "multi_query": True,
            "new_decoder_architecture": False,
            "num_attention_heads": 71,
            "num_hidden_layers": 32,
            "parallel_attn": True,
            "vocab_size": 65024,
        },
    ),
    limits="Falcon-RW's ALiBi is computed in float32; transformers rounds its slopes and biases to bfloat16.",
    with_kv_heads=with_kv_heads,
)
