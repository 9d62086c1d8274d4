"""Names of number formats, as settings and checkpoints write them."""

from collections.abc import Mapping
from typing import Any

from engine.errors import ModelLoadError

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
"""Formats a model can run in, with the bytes of one number."""

SAFETENSORS_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
"""What safetensors headers call them."""


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
