"""Which weights are kept in 8 bits, and what they take then. No torch.

A weight [out, in] becomes integers [out, in rounded up to a multiple of 4] and a scale for every 64 of a row, in bfloat16:
8.25 bits a number. engine/kernels/int8.py makes them.
"""

import math

from engine.models.spec import DecoderSpec

GROUP_SIZE = 64
"""Columns of a weight that share a scale; src/rotate.h has the same number."""

SCALE_BYTES = 2
STORED_COLUMNS = 4
"""A row's length is a multiple of it: so many columns go into one instruction."""

KEPT = ("router", "gate")
"""Small projections that decide much: they stay in the model's dtype."""


def quantized_weights(spec: DecoderSpec, quantization: str) -> list[str]:
    """Names of the parameters that are kept in 8 bits under this setting, `none` or `int8`."""
    if quantization == "none":
        return []
    return [name for name in spec.linear_weights() if not name.removesuffix(".weight").endswith(KEPT)]


def scale_name(weight: str) -> str:
    """The parameter that holds the scales of another one: `layers.0.qkv.scale` those of `layers.0.qkv.weight`."""
    return f"{weight.removesuffix('weight')}scale"


def stored_depth(depth: int) -> int:
    """Columns of the integers of a weight with `depth` columns."""
    return -(-depth // STORED_COLUMNS) * STORED_COLUMNS


def num_groups(depth: int) -> int:
    """Scales of a row of `depth` numbers."""
    return -(-depth // GROUP_SIZE)


def weights_bytes(spec: DecoderSpec, dtype_bytes: int, quantization: str) -> int:
    """Bytes of all parameters.

    Args:
        spec: of the model.
        dtype_bytes: of a number in the model's dtype.
        quantization: `none` or `int8`.
    """
    quantized = set(quantized_weights(spec, quantization))
    return sum(
        _quantized_bytes(shape) if name in quantized else math.prod(shape) * dtype_bytes
        for name, shape in spec.parameter_shapes().items()
    )


def _quantized_bytes(shape: tuple[int, ...]) -> int:
    *rows, depth = shape
    return math.prod(rows) * (stored_depth(depth) + num_groups(depth) * SCALE_BYTES)
