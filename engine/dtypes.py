"""Names of number formats, as settings and checkpoints write them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from engine.errors import ModelLoadError

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
"""Formats a model can run in, with the bytes of one number."""


class KVFormat(NamedTuple):
    """What a number in the KV cache takes.

    Attributes:
        dtype_bytes: bytes of one.
        scale_bytes: bytes of the scale that each key and each value of a head has; 0: there are none.
    """

    dtype_bytes: int
    scale_bytes: int = 0


EIGHT_BIT = {"fp8_e4m3": KVFormat(1, 2), "int8": KVFormat(1, 2)}
"""Formats that only the KV cache knows."""

KV_FORMATS = {name: KVFormat(dtype_bytes) for name, dtype_bytes in DTYPE_BYTES.items()} | EIGHT_BIT
"""Formats the KV cache can have."""

SAFETENSORS_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
"""What safetensors headers call them."""


def resolve_kv_cache_dtype(wanted: str, dtype: str) -> str:
    """The format of the KV cache of a model that runs in `dtype`: what is wanted, `auto` being the model's."""
    return dtype if wanted == "auto" else wanted


def resolve_dtype(wanted: str, config: Mapping[str, Any], stored: str) -> str:
    """The format to run in: what is wanted, else what config.json says, else what the tensors are stored in.

    Args:
        wanted: a setting, `auto` included.
        config: config.json.
        stored: the safetensors dtype of the checkpoint's first tensor.

    Raises:
        ModelLoadError: the checkpoint names a format that headcount does not run.
    """
    if wanted != "auto":
        return wanted
    name = config.get("dtype") or config.get("torch_dtype") or SAFETENSORS_DTYPES.get(stored, stored)
    if name not in DTYPE_BYTES:
        raise ModelLoadError(f"dtype {name!r} of the checkpoint is not supported; name one of {', '.join(DTYPE_BYTES)}")
    return str(name)
