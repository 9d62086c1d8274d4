"""Keys and values in 8 bits: what a head's vector becomes, and back again.

    scale = largest magnitude in the vector / largest magnitude of the format      number = x / scale

Every token's key in every KV head has a scale of its own, and so has its value: nothing needs to be calibrated, and what
is stored depends on the token alone, never on its neighbours in the batch. So blocks stay shareable.
"""

import torch
from torch import Tensor

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""Formats, with the largest magnitude of a number. -128 is left unused, so that x and -x are stored alike."""

FLOAT16_MAX, FLOAT16_MIN = 65504.0, 2.0**-24
"""The largest finite scale, and the smallest that is not 0."""


def quantize(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Vectors to 8-bit numbers and a scale each: x is about numbers * scale.

    Scales are rounded up to float16, so that no number is cut off. What comes back is off by at most half a scale in int8,
    and by at most a 16th of itself (or 2^-10 of the scale, where that is more) in e4m3. A vector of zeros has the scale 0;
    magnitudes over 65504 * LARGEST are cut off there, infinity too. NaN stays NaN, through the scale.

    Args:
        x: [..., head_dim].
        dtype: torch.int8 or torch.float8_e4m3fn.

    Returns:
        [..., head_dim] of `dtype`, and [...] float16.
    """
    largest = LARGEST[dtype]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = _round_up(wide.abs().amax(-1) / largest)
    # The clamp concerns scales of 0 alone, whose vectors are 0: 0 / 0 would be NaN.
    numbers = wide / scale.to(wide.dtype).clamp(min=FLOAT16_MIN).unsqueeze(-1)
    numbers = numbers.clamp(-largest, largest)
    return (numbers.round() if dtype is torch.int8 else numbers).to(dtype), scale


def dequantize(numbers: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Undo `quantize`: numbers * scale.

    Args:
        numbers: [..., head_dim] int8 or float8_e4m3fn.
        scale: [...] float16.
        dtype: of the result, float32 or wider: 8 bits times 11 bits fit without rounding.
    """
    return numbers.to(dtype) * scale.to(dtype).unsqueeze(-1)


def _round_up(x: Tensor) -> Tensor:
    """The smallest float16 that is at least x, for x >= 0; the largest finite one where there is none."""
    x = x.clamp(max=FLOAT16_MAX)
    nearest = x.to(torch.float16)
    # The bits of non-negative float16 numbers, read as integers, are in the order of the numbers.
    above = (nearest.view(torch.int16) + 1).view(torch.float16)
    return torch.where(nearest.to(x.dtype) < x, above, nearest)
