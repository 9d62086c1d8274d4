"""Rope fields of config.json -> RopeSpec, in the older and the newer spelling. No torch."""

from engine.errors import ModelLoadError
from engine.models.config_fields import Config, field, positive
from engine.models.spec import Llama3Scaling, RopeSpec

SUPPORTED = ("default", "linear", "llama3")


def read_rope(config: Config, head_dim: int) -> RopeSpec:
    """The rope of a model whose heads are `head_dim` wide.

    Newer configs hold everything in `rope_parameters`; older ones `rope_theta` beside an optional `rope_scaling`.

    Raises:
        ModelLoadError: a rope type that is not supported, or a field of it that is missing.
    """
    scaling: Config = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = field(scaling, "rope_theta", float, field(config, "rope_theta", float, 10000.0))
    rope_type = scaling.get("rope_type") or scaling.get("type") or "default"
    if rope_type == "default":
        return RopeSpec(theta=theta, rotary_dim=head_dim)
    if rope_type == "linear":
        return RopeSpec(theta=theta, rotary_dim=head_dim, linear_factor=field(scaling, "factor", float))
    if rope_type == "llama3":
        return RopeSpec(theta=theta, rotary_dim=head_dim, llama3=_read_llama3(scaling))
    raise ModelLoadError(f"config.json: rope type {rope_type!r} is not supported; supported: {', '.join(SUPPORTED)}")


def _read_llama3(scaling: Config) -> Llama3Scaling:
    return Llama3Scaling(
        factor=field(scaling, "factor", float),
        low_freq_factor=field(scaling, "low_freq_factor", float),
        high_freq_factor=field(scaling, "high_freq_factor", float),
        original_max_position_embeddings=positive(scaling, "original_max_position_embeddings"),
    )
