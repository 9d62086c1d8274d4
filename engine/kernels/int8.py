"""Weights and activations as 8-bit integers.

Both are cut into groups of 64 columns. A group is turned by a Walsh-Hadamard transform, which spreads an outlier over all
of its numbers (QuaRot: Ashkboos et al. 2024), and rounded to integers with a scale of its own:

    scale = largest magnitude in the group / 127      integer = number / scale

Turning weights and activations alike leaves products as they are: the transform is its own inverse, up to a factor of 64
that the weights are divided by. A last group of fewer than 64 columns is not turned.

What an activation becomes depends on its own row alone, and nothing needs to be calibrated.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.quantization import GROUP_SIZE, STORED_COLUMNS

LARGEST = 127.0
"""Integers go from -127 to 127, so that x and -x become the same."""

TINY = 2.0**-100
"""Groups of no larger numbers are 0: the inverse of their scale would be infinite."""

CHUNK_NUMBERS = 1 << 21
"""Of a weight that are rounded at a time: their float32 copies stay in the cache, and the memory for them small."""


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight to integers and scales.

    Args:
        weight: [..., out, in], finite.

    Returns:
        [..., out, in rounded up to a multiple of 4] int8, filled up with 0, and [..., out, number of groups] bfloat16.
    """
    depth = weight.shape[-1]
    rows = weight.reshape(-1, depth)
    parts = [_quantize_rows(part) for part in rows.split(max(1, CHUNK_NUMBERS // depth))]
    numbers, scale = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return numbers.view(*weight.shape[:-1], -1), scale.view(*weight.shape[:-1], -1)


def _quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    groups, num_whole = _as_groups(rows.float()), rows.shape[-1] // GROUP_SIZE
    groups = _turned(torch.cat((groups[:, :num_whole] / GROUP_SIZE, groups[:, num_whole:]), 1), num_whole)
    scale = _bfloat16_above(groups.abs().amax(-1) / LARGEST)
    # The clamp concerns groups of zeros alone: 0 / 0 would be NaN.
    numbers = (groups / scale.float().clamp(min=TINY).unsqueeze(-1)).round().to(torch.int8).flatten(1)
    depth = rows.shape[-1]
    return numbers[:, : depth + -depth % STORED_COLUMNS].contiguous(), scale


def dequantize_rows(numbers: Tensor, scale: Tensor, depth: int) -> Tensor:
    """Undo `quantize_weight`, but for the rounding.

    Args:
        numbers: [num_rows, depth rounded up to a multiple of 4] int8.
        scale: [num_rows, number of groups] bfloat16.
        depth: columns of the weight.

    Returns:
        [num_rows, depth] float32.
    """
    groups = _as_groups(numbers[:, :depth].float()) * scale.float().unsqueeze(-1)
    return _turned(groups, depth // GROUP_SIZE).flatten(1)[:, :depth]


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Activations as integers and scales. A group with a number that is not finite has the scale NaN.

    Args:
        x: [num_rows, depth].

    Returns:
        [num_rows, number of groups, 64] float32 whose numbers are integers, the last group filled up with 0, and
        [num_rows, number of groups] float32.
    """
    groups = turned_groups(x.float())
    largest = groups.abs().amax(-1) + (groups * 0).sum(-1)
    # A number over a tensor is the tensor's reciprocal times the number, rounded twice: hence a tensor of one number.
    inverse = torch.where(largest > TINY, largest.new_tensor(LARGEST) / largest, 0.0)
    return (groups * inverse.unsqueeze(-1)).round(), largest / LARGEST


def turned_groups(rows: Tensor) -> Tensor:
    """Rows cut into groups, whole ones turned.

    Args:
        rows: [num_rows, depth] float32.

    Returns:
        [num_rows, number of groups, 64], the last group filled up with 0.
    """
    return _turned(_as_groups(rows), rows.shape[-1] // GROUP_SIZE)


def _as_groups(rows: Tensor) -> Tensor:
    groups: Tensor = F.pad(rows, (0, -rows.shape[-1] % GROUP_SIZE)).unflatten(-1, (-1, GROUP_SIZE))
    return groups


def _turned(groups: Tensor, num_whole: int) -> Tensor:
    """The first `num_whole` groups of every row times the Hadamard matrix of Sylvester's construction.

    Stages go from neighbours to the farthest, as in src/rotate.h: the roundings are the same.
    """
    whole: Tensor = groups[:, :num_whole]
    for stage in range(GROUP_SIZE.bit_length() - 1):
        first, second = whole.unflatten(-1, (-1, 2, 1 << stage)).unbind(-2)
        whole = torch.stack((first + second, first - second), -2).flatten(-3)
    return whole if num_whole == groups.shape[1] else torch.cat((whole, groups[:, num_whole:]), 1)


def _bfloat16_above(x: Tensor) -> Tensor:
    """The smallest bfloat16 that is at least x, for finite x >= 0: no number is cut off."""
    nearest = x.to(torch.bfloat16)
    # The bits of non-negative numbers, read as integers, are in the order of the numbers.
    above = (nearest.view(torch.int16) + 1).view(torch.bfloat16)
    return torch.where(nearest.float() < x, above, nearest)
