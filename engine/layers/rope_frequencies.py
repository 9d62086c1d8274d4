"""How fast each pair of a head turns: the formulas of rope's variants.

All in float32, as the models were trained; more digits here would be a different model.
"""

import math

import torch
from torch import Tensor

from engine.models.spec import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    RopeSpec,
    YarnScaling,
)


def inverse_frequencies(spec: RopeSpec, max_model_len: int) -> Tensor:
    """[rotary_dim / 2] float32: theta^(-2i / rotary_dim), stretched as the spec says.

    Args:
        spec: which angles.
        max_model_len: longest context that is served; variants that depend on a length take this one.
    """
    match spec.scaling:
        case None:
            frequencies = _plain(spec.theta, spec.rotary_dim)
        case LinearScaling(factor=factor):
            frequencies = _plain(spec.theta, spec.rotary_dim) / factor
        case DynamicScaling() as scaling:
            frequencies = _plain(_stretched_base(spec, scaling, max_model_len), spec.rotary_dim)
        case Llama3Scaling() as scaling:
            frequencies = _llama3(_plain(spec.theta, spec.rotary_dim), scaling)
        case YarnScaling() as scaling:
            frequencies = _yarn(spec, scaling)
        case LongRopeScaling() as scaling:
            is_long = max_model_len > scaling.original_max_position_embeddings
            divisors = torch.tensor(scaling.long_factor if is_long else scaling.short_factor)
            frequencies = 1.0 / (divisors * spec.theta ** _exponents(spec.rotary_dim))
        case ProportionalScaling() as scaling:
            frequencies = _proportional(spec, scaling)
    return -frequencies if spec.is_reversed else frequencies


def _exponents(dim: int) -> Tensor:
    return torch.arange(0, dim, 2, dtype=torch.int64).float() / dim


def _plain(theta: float, dim: int) -> Tensor:
    return 1.0 / (theta ** _exponents(dim))


def _stretched_base(spec: RopeSpec, scaling: DynamicScaling, max_model_len: int) -> float:
    """The base whose slowest pair makes as many turns over max_model_len as the trained one over its own context."""
    ratio = max(max_model_len, scaling.original_max_position_embeddings) / scaling.original_max_position_embeddings
    growth = scaling.factor * ratio - (scaling.factor - 1)
    return float(spec.theta * growth ** (spec.rotary_dim / (spec.rotary_dim - 2)))


def _llama3(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Wavelengths beyond the trained context are slowed by `factor`, with a linear ramp between."""
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_max_position_embeddings / wavelengths
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = ramp.clamp(0, 1)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def _yarn(spec: RopeSpec, scaling: YarnScaling) -> Tensor:
    """Pairs of more than beta_fast turns are kept, those of fewer than beta_slow slowed, with a ramp between (eq. 17)."""
    dim = spec.rotary_dim

    def pair_of(num_turns: float) -> float:
        """The pair that makes this many turns in the trained context."""
        wavelength = scaling.original_max_position_embeddings / (num_turns * 2 * math.pi)
        return dim * math.log(wavelength) / (2 * math.log(spec.theta))

    low, high = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.is_truncated:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    # A ramp of no width would divide by 0: the models were trained with this much.
    width = high - low or 0.001
    slowed = ((torch.arange(dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    frequencies = _plain(spec.theta, dim)
    return frequencies / scaling.factor * slowed + frequencies * (1 - slowed)


def _proportional(spec: RopeSpec, scaling: ProportionalScaling) -> Tensor:
    num_turning = int(scaling.proportion * spec.rotary_dim // 2)
    frequencies = _plain(spec.theta, spec.rotary_dim) / scaling.factor
    frequencies[num_turning:] = 0.0
    return frequencies
