"""Rotary position embedding: the table of angles."""

import torch
from torch import Tensor

from engine.layers.rope_frequencies import inverse_frequencies
from engine.models.spec import RopeSpec


class Rotary:
    """cos and sin of every position, looked up once a step for all layers that share them.

    Args:
        spec: which angles.
        num_positions: rows of the table (max_model_len).
        dtype: of the model; half precision keeps a float32 table.
        device: where the table lies.
    """

    def __init__(self, spec: RopeSpec, num_positions: int, dtype: torch.dtype, device: torch.device) -> None:
        positions = torch.arange(num_positions, dtype=torch.float32)
        angles = torch.outer(positions, inverse_frequencies(spec, num_positions))
        table_dtype = torch.promote_types(dtype, torch.float32)
        cos_and_sin = torch.stack([angles.cos(), angles.sin()]) * spec.attention_factor
        self._table = cos_and_sin.to(device, table_dtype)

    def lookup(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cos and sin, each [num_tokens, rotary_dim / 2], for positions [num_tokens]."""
        cos, sin = self._table.index_select(1, positions)
        return cos, sin
