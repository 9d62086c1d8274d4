"""Launches the products of experts, with no look at the counts on the host: that would wait for the device."""

import torch
from torch import Tensor

from engine.kernels.triton.jit.grouped import grouped_kernel

BLOCK_N, BLOCK_K = 64, 64
MIN_ROWS, MAX_ROWS = 16, 128
"""A tile's rows follow the mean group: decoding gives few rows to many groups, prefill many to all."""


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None, counts: Tensor) -> Tensor:
    """See reference.grouped_linear.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    (num_rows, depth), (num_groups, num_outputs, _) = x.shape, weight.shape
    if weight.shape[2] != depth or weight.dtype is not x.dtype or counts.shape != (num_groups,):
        raise ValueError(
            f"weight: expected {x.dtype} [{counts.shape[0]}, out, {depth}], got {weight.dtype} {list(weight.shape)}"
        )
    out = torch.empty(num_rows, num_outputs, dtype=x.dtype, device=x.device)
    if not num_rows:
        return out
    block_m = min(MAX_ROWS, max(MIN_ROWS, 1 << (num_rows // num_groups).bit_length()))
    groups, starts, ends = tiles_of(counts, num_rows, block_m)
    grouped_kernel[groups.shape[0], -(-num_outputs // BLOCK_N)](
        *(out, x.contiguous(), weight.contiguous(), None if bias is None else bias.contiguous()),
        *(groups, starts, ends, num_groups, num_outputs),
        IN=depth,
        BLOCK_M=block_m,
        BLOCK_N=BLOCK_N,
        BLOCK_K=BLOCK_K,
        num_warps=4,
        num_stages=2 if x.dtype is torch.float32 else 3,
    )
    return out


def tiles_of(counts: Tensor, num_rows: int, block_m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which tile of rows is whose.

    Worked example: counts [3, 0, 5] in tiles of 4 rows: groups [0, 2, 2, 3, 3], of which 3 is none; starts [0, 3, 7, ...].

    Args:
        counts: [num_groups] int64.
        num_rows: their sum, known without looking at them.
        block_m: rows of a tile.

    Returns:
        groups [num_tiles] and starts [num_tiles], for as many tiles as there can be at most; ends [num_groups], past the
        last row of each group. All int64.
    """
    num_groups = counts.shape[0]
    num_tiles = -(-num_rows // block_m) + min(num_groups, num_rows)
    ends, tile_ends = counts.cumsum(0), ((counts + (block_m - 1)) // block_m).cumsum(0)
    tiles = torch.arange(num_tiles, device=counts.device)
    groups = torch.searchsorted(tile_ends, tiles, right=True)
    known = groups.clamp(max=num_groups - 1)
    tiles_before = tile_ends[known] - (counts[known] + (block_m - 1)) // block_m
    return groups, ends[known] - counts[known] + (tiles - tiles_before) * block_m, ends
