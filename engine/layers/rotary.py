"""Rotary position embedding: the table of angles, and its application."""

import math

import torch
from torch import Tensor

from engine.models.spec import Llama3Scaling, RopeSpec


def inverse_frequencies(spec: RopeSpec) -> Tensor:
    """[rotary_dim / 2] float32: theta^(-2i / rotary_dim), stretched as the spec says.

    Computed in float32, as the models were trained; more digits here would be a different model.
    """
    exponents = torch.arange(0, spec.rotary_dim, 2, dtype=torch.int64).float() / spec.rotary_dim
    frequencies = 1.0 / (spec.theta**exponents) / spec.linear_factor
    return _llama3(frequencies, spec.llama3) if spec.llama3 else frequencies


def _llama3(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Llama 3.1's rule: wavelengths beyond the trained context are slowed by `factor`, with a linear ramp between."""
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_max_position_embeddings / wavelengths
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = ramp.clamp(0, 1)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


class Rotary:
    """cos and sin of every position, looked up once a step for all layers.

    Args:
        spec: which angles.
        num_positions: rows of the table (max_model_len).
        dtype: of the model; half precision keeps a float32 table.
        device: where the table lies.
    """

    def __init__(self, spec: RopeSpec, num_positions: int, dtype: torch.dtype, device: torch.device) -> None:
        positions = torch.arange(num_positions, dtype=torch.float32)
        angles = torch.outer(positions, inverse_frequencies(spec))
        table_dtype = torch.promote_types(dtype, torch.float32)
        self._cos = angles.cos().to(device, table_dtype)
        self._sin = angles.sin().to(device, table_dtype)

    def lookup(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cos and sin, each [num_tokens, rotary_dim / 2], for positions [num_tokens]."""
        return self._cos[positions], self._sin[positions]
