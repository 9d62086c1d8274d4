"""The fields of config.json that Llama named and most families since have kept. No torch.

A family's page starts from here and says what it does otherwise.
"""

from collections.abc import Sequence
from typing import Any

from engine.errors import ModelLoadError
from engine.models.config_fields import Config, activation, field, head_counts, head_width, positive
from engine.models.rope_config import longest_context, read_rope
from engine.models.spec import DecoderSpec, HeadSpec, LayerSpec, MLPSpec, NormKind, NormSpec


def read_heads(config: Config, num_kv_heads: int | None = None) -> tuple[int, int, int]:
    """num_q_heads, num_kv_heads (as given, or else as the config says) and head_dim."""
    num_heads = positive(config, "num_attention_heads")
    num_q_heads, num_kv_heads = head_counts(
        num_heads, num_kv_heads or positive(config, "num_key_value_heads", num_heads)
    )
    if config.get("head_dim"):
        return num_q_heads, num_kv_heads, positive(config, "head_dim")
    return num_q_heads, num_kv_heads, head_width(positive(config, "hidden_size"), num_q_heads)


def read_rms_norm(config: Config, default_eps: float = 1e-6, **changes: Any) -> NormSpec:
    """RMSNorm with the model's epsilon; `changes` are fields of NormSpec."""
    return NormSpec(NormKind.RMS, field(config, "rms_norm_eps", float, default_eps), **changes)


def read_layer_norm(config: Config, *, has_bias: bool = True, **changes: Any) -> NormSpec:
    """LayerNorm with the model's epsilon; `changes` are fields of NormSpec."""
    return NormSpec(NormKind.LAYER, field(config, "layer_norm_eps", float, 1e-5), has_bias=has_bias, **changes)


def read_mlp(config: Config, default_activation: str = "silu", **changes: Any) -> MLPSpec:
    """The gated MLP; `changes` are fields of MLPSpec, and an activation that they replace is not read."""
    if "activation" not in changes:
        changes["activation"] = activation(config, "hidden_act", default_activation)
    if "intermediate_size" not in changes:
        changes["intermediate_size"] = positive(config, "intermediate_size")
    has_bias = field(config, "mlp_bias", bool, default=False)
    return MLPSpec(**{"is_gated": True, "has_bias": has_bias, **changes})


def read_plain_mlp(config: Config, default_activation: str, *, has_bias: bool = True) -> MLPSpec:
    """The MLP without a gate, four times as wide as the model where the config does not say."""
    width = positive(config, "intermediate_size", 4 * positive(config, "hidden_size"))
    return MLPSpec(width, activation(config, "hidden_act", default_activation), is_gated=False, has_bias=has_bias)


def read_layer(config: Config, *, num_kv_heads: int | None = None, **changes: Any) -> LayerSpec:
    """A layer with rope and a gated MLP; `changes` are fields of LayerSpec, and what they replace is not read."""
    num_q_heads, num_kv_heads, head_dim = read_heads(config, num_kv_heads)
    if "rope" not in changes:
        changes["rope"] = read_rope(config, head_dim)
    if "mlp" not in changes:
        changes["mlp"] = read_mlp(config)
    has_bias = field(config, "attention_bias", bool, default=False)
    fields = {"softmax_scale": head_dim**-0.5, "has_qkv_bias": has_bias, "has_o_bias": has_bias, **changes}
    return LayerSpec(num_q_heads, num_kv_heads, head_dim, head_dim, **fields)


def read_decoder(
    config: Config, layers: Sequence[LayerSpec], *, is_tied_by_default: bool = False, **changes: Any
) -> DecoderSpec:
    """A decoder of these layers with RMSNorm; `changes` are fields of DecoderSpec, and what they replace is not read."""
    if "norm" not in changes:
        changes["norm"] = read_rms_norm(config)
    if "head" not in changes:
        changes["head"] = HeadSpec(is_tied=read_is_tied(config, is_tied_by_default), norm=changes["norm"])
    if "max_position_embeddings" not in changes:
        changes["max_position_embeddings"] = longest_context(config, layers[0].rope)
    return DecoderSpec(
        architecture=config["architectures"][0],
        vocab_size=positive(config, "vocab_size"),
        hidden_size=positive(config, "hidden_size"),
        layers=tuple(layers),
        **changes,
    )


def read_is_tied(config: Config, default: bool) -> bool:
    """Whether the embedding table is the output projection; older configs leave it out where it is the default."""
    return field(config, "tie_word_embeddings", bool, default=default)


def read_windows(config: Config, is_sliding: Sequence[bool], *, name: str = "sliding_window") -> list[int | None]:
    """The sliding window of every layer.

    Args:
        config: `layer_types` says which layers slide, in newer configs.
        is_sliding: a layer each, for configs that do not say.
        name: the field of the window's width; absent, null: no layer slides.

    Raises:
        ModelLoadError: `layer_types` is no list of a known type a layer.
    """
    num_layers = positive(config, "num_hidden_layers")
    layer_types = config.get("layer_types")
    if layer_types is None:
        layer_types = ["sliding_attention" if slides else "full_attention" for slides in is_sliding]
    known = ("full_attention", "sliding_attention")
    if not isinstance(layer_types, list) or len(layer_types) != num_layers or not set(layer_types) <= set(known):
        raise ModelLoadError(
            f"config.json: 'layer_types' must name {' or '.join(known)} for each of {num_layers} layers, got {layer_types!r}"
        )
    if config.get(name) is None:
        return [None] * num_layers
    window = positive(config, name)
    return [window if layer_type == "sliding_attention" else None for layer_type in layer_types]


def all_but_every(config: Config, interval: int) -> list[bool]:
    """A layer each: True, but in each `interval`-th False; says which layers slide, or turn, in configs that only count."""
    return [(layer_idx + 1) % interval != 0 for layer_idx in range(positive(config, "num_hidden_layers"))]
