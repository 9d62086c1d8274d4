"""Rope fields of config.json -> RopeSpec, in the older and the newer spelling. No torch."""

import math
from collections.abc import Callable

import msgspec

from engine.errors import ModelLoadError
from engine.models.config_fields import Config, field, fields_of, positive
from engine.models.spec import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    RopeScaling,
    RopeSpec,
    YarnScaling,
)


def read_rope(
    config: Config,
    head_dim: int,
    *,
    layer_type: str = "",
    default_theta: float = 10000.0,
    default_partial: float = 1.0,
    is_interleaved: bool = False,
) -> RopeSpec:
    """The rope of a model whose heads are `head_dim` wide.

    Newer configs hold everything in `rope_parameters`, some of them one set a layer type; older ones `rope_theta` and
    `partial_rotary_factor` beside an optional `rope_scaling`.

    Args:
        config: config.json.
        head_dim: width of a head.
        layer_type: the set to read, such as `full_attention`, where there are several.
        default_theta: where the config has none.
        default_partial: share of the head that turns, where the config says nothing.
        is_interleaved: see RopeSpec.

    Raises:
        ModelLoadError: a rope type that is not supported, or a field of it that is missing.
    """
    fields = rope_fields(config, layer_type)
    theta = field(fields, "rope_theta", float, field(config, "rope_theta", float, default_theta))
    partial = field(config, "partial_rotary_factor", float, default_partial)
    partial = field(fields, "partial_rotary_factor", float, partial)
    key = "rope_type" if fields.get("rope_type") else "type"
    rope_type = field(fields, key, str, "default")
    if rope_type not in ("default", "proportional", *SCALINGS):
        supported = ", ".join(["default", "proportional", *SCALINGS])
        raise ModelLoadError(f"config.json: {key!r} of the rope must be one of {supported}, got {rope_type!r}")
    if rope_type == "proportional":
        scaling = ProportionalScaling(proportion=partial, factor=field(fields, "factor", float, 1.0))
        return RopeSpec(theta, head_dim, is_interleaved, scaling=scaling)
    rotary_dim = int(head_dim * partial)
    if rotary_dim % 2:
        raise ModelLoadError(f"config.json: {partial} of a head of {head_dim} is {rotary_dim}, no even number to turn")
    rope = RopeSpec(theta, rotary_dim, is_interleaved)
    return _scaled(rope, rope_type, fields, config) if rope_type in SCALINGS else rope


def rope_fields(config: Config, layer_type: str = "") -> Config:
    """The rope fields of a layer type, or those that all layers share; where both spellings are there, the older one's.

    Raises:
        ModelLoadError: there are sets for layer types, and none for this one.
    """
    fields = fields_of(config, "rope_scaling") or fields_of(config, "rope_parameters")
    nested = [name for name, value in fields.items() if isinstance(value, dict)]
    if nested and layer_type not in nested:
        wanted = f"for {layer_type!r}" if layer_type else "shared by all layers"
        raise ModelLoadError(f"config.json has rope fields for {', '.join(nested)}, and none {wanted}")
    return fields_of(fields, layer_type) if nested else fields


def longest_context(config: Config, rope: RopeSpec | None) -> int:
    """Positions that the model can serve: more than max_position_embeddings where rope stretches beyond it."""
    longest = positive(config, "max_position_embeddings")
    if rope and isinstance(rope.scaling, DynamicScaling | YarnScaling):
        stretched = rope.scaling.factor * rope.scaling.original_max_position_embeddings
        return max(longest, int(stretched))
    return longest


def _scaled(rope: RopeSpec, rope_type: str, fields: Config, config: Config) -> RopeSpec:
    scaling = SCALINGS[rope_type](fields, config)
    if isinstance(scaling, LongRopeScaling):
        for name in ("short_factor", "long_factor"):
            given = len(getattr(scaling, name))
            if given != rope.rotary_dim // 2:
                raise ModelLoadError(f"config.json: {name!r} must hold {rope.rotary_dim // 2} numbers, got {given}")
    return msgspec.structs.replace(rope, scaling=scaling, attention_factor=_attention_factor(scaling, fields, config))


def _linear(fields: Config, _: Config) -> LinearScaling:
    return LinearScaling(factor=field(fields, "factor", float))


def _dynamic(fields: Config, config: Config) -> DynamicScaling:
    return DynamicScaling(
        factor=field(fields, "factor", float),
        original_max_position_embeddings=positive(config, "max_position_embeddings"),
    )


def _llama3(fields: Config, config: Config) -> Llama3Scaling:
    return Llama3Scaling(
        factor=field(fields, "factor", float),
        low_freq_factor=field(fields, "low_freq_factor", float),
        high_freq_factor=field(fields, "high_freq_factor", float),
        original_max_position_embeddings=_original(fields, config),
    )


def _yarn(fields: Config, config: Config) -> YarnScaling:
    return YarnScaling(
        factor=_factor(fields, config),
        original_max_position_embeddings=_original(fields, config),
        beta_fast=field(fields, "beta_fast", float, 32.0),
        beta_slow=field(fields, "beta_slow", float, 1.0),
        is_truncated=field(fields, "truncate", bool, default=True),
    )


def _longrope(fields: Config, config: Config) -> LongRopeScaling:
    return LongRopeScaling(
        short_factor=_floats(fields, "short_factor"),
        long_factor=_floats(fields, "long_factor"),
        original_max_position_embeddings=_original(fields, config),
    )


SCALINGS: dict[str, Callable[[Config, Config], RopeScaling]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}
"""Hugging Face's names of rope types; `su` is what LongRoPE was called first."""


def _original(fields: Config, config: Config) -> int:
    """The trained context: as stated beside the rope's fields, else among them, else all there is."""
    name = "original_max_position_embeddings"
    return positive(config, name, positive(fields, name, positive(config, "max_position_embeddings")))


def _factor(fields: Config, config: Config) -> float:
    return field(fields, "factor", float, positive(config, "max_position_embeddings") / _original(fields, config))


def _floats(fields: Config, name: str) -> tuple[float, ...]:
    values = fields.get(name)
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise ModelLoadError(f"config.json: {name!r} must be a list of numbers, got {values!r}")
    return tuple(map(float, values))


def _attention_factor(scaling: RopeScaling, fields: Config, config: Config) -> float:
    """What cos and sin are multiplied by: as stated, or as the papers suggest."""
    if not isinstance(scaling, YarnScaling | LongRopeScaling):
        return 1.0
    stated = fields.get("attention_factor")
    if stated is not None:
        return field(fields, "attention_factor", float)
    factor = _factor(fields, config)
    if isinstance(scaling, LongRopeScaling):
        return (
            math.sqrt(1 + math.log(factor) / math.log(scaling.original_max_position_embeddings)) if factor > 1 else 1.0
        )
    mscale, mscale_all = (field(fields, name, float, 0.0) for name in ("mscale", "mscale_all_dim"))
    if mscale and mscale_all:
        return _yarn_temperature(factor, mscale) / _yarn_temperature(factor, mscale_all)
    return _yarn_temperature(factor)


def _yarn_temperature(factor: float, mscale: float = 1.0) -> float:
    """Peng et al. 2023, eq. 22."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
