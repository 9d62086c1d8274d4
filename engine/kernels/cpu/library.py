"""The C functions with their argument types, as src/*.c declare them."""

import ctypes
import functools

import torch
from torch import Tensor

from engine.kernels.coverage import NATIVE_DTYPES
from engine.kernels.cpu.build import KernelBuildError, load_library
from engine.quantization import num_groups, stored_depth

DTYPES = {getattr(torch, name): code for name, code in NATIVE_DTYPES.items()}
"""The formats that the kernels read, as src/common.h numbers them."""

NO_WINDOW = 1 << 60
"""A sliding window wider than any context."""

_P, _I, _L, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float

SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "hc_pack": (_I, (_I, _P, _L, _L, _I)),
    "hc_gather_rows": (None, (_I, *[_P] * 3, *[_L] * 3, _I)),
    "hc_linear": (_I, (_I, *[_P] * 5, *[_L] * 3, _I)),
    "hc_quantize_int8": (None, (_I, *[_P] * 3, *[_L] * 2, _I)),
    "hc_pack_int8": (_I, (_P, _P, _L, _L, _I)),
    "hc_gather_rows_int8": (None, (_I, *[_P] * 4, *[_L] * 3, _I)),
    "hc_linear_int8": (_I, (_I, *[_P] * 6, *[_L] * 3, _I)),
    "hc_rms_norm": (None, (_I, *[_P] * 3, *[_L] * 3, _F, _I)),
    "hc_activate": (None, (_I, *[_P] * 2, *[_L] * 2, _I, _I, _I)),
    "hc_apply_rope": (None, (_I, *[_P] * 3, *[_L] * 5, _I)),
    "hc_store_rows": (None, (*[_P] * 3, *[_L] * 3, _I)),
    "hc_paged_attention": (_I, (_I, *[_P] * 7, *[_L] * 9, _F, _I)),
    "hc_argmax": (None, (*[_P] * 2, *[_L] * 2, _I)),
    "hc_draw": (_I, (*[_P] * 4, *[_L] * 2, _I)),
    "hc_draw_truncated": (_I, (*[_P] * 7, *[_L] * 2, _I)),
    "hc_layers": (_I, (_P, _L, _P)),
}
"""Name -> result and argument types."""


@functools.cache
def native_library() -> ctypes.CDLL:
    """The library with the types of its functions, so that ctypes converts and checks arguments.

    Raises:
        KernelBuildError: there is none on this machine.
    """
    library = load_library()
    if isinstance(library, str):
        raise KernelBuildError(library)
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuse anything but a contiguous tensor of this shape and dtype on the CPU.

    Raises:
        ValueError: it is something else.
    """
    if tensor.shape != shape or tensor.dtype is not dtype or not tensor.is_contiguous() or tensor.device.type != "cpu":
        given = f"{tensor.dtype} {list(tensor.shape)} with strides {list(tensor.stride())} on {tensor.device}"
        raise ValueError(f"{name}: expected contiguous {dtype} {list(shape)}, got {given}")


def check_quantized(name: str, weight: Tensor, scale: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse anything but the integers and scales of a weight of this shape.

    Raises:
        ValueError: one of them is something else.
    """
    *rows, depth = shape
    check_tensor(f"{name}.weight", weight, (*rows, stored_depth(depth)), torch.int8)
    check_tensor(f"{name}.scale", scale, (*rows, num_groups(depth)), torch.bfloat16)
