"""The C functions with their argument types, as src/*.c declare them."""

import ctypes
import functools

import torch

from engine.kernels.build import KernelBuildError, Library, load_library
from engine.kernels.coverage import NATIVE_DTYPES

DTYPES = {getattr(torch, name): code for name, code in NATIVE_DTYPES.items()}
"""The formats that the kernels read, as src/common.h numbers them."""

KV_DTYPES = DTYPES | {torch.int8: 2, torch.float8_e4m3fn: 3}
"""The formats of cached keys and values: the model's own, or one of 8 bits with scales."""

NO_WINDOW = 1 << 60
"""A sliding window wider than any context."""

_P, _I, _L, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float

SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "hc_pack": (_I, (_I, _P, _L, _L, _I)),
    "hc_gather_rows": (None, (_I, *[_P] * 3, *[_L] * 3, _I)),
    "hc_linear": (_I, (_I, _I, *[_P] * 5, *[_L] * 3, _I)),
    "hc_quantize_int8": (None, (_I, *[_P] * 3, *[_L] * 2, _I)),
    "hc_pack_int8": (_I, (_P, _P, _L, _L, _I)),
    "hc_gather_rows_int8": (None, (_I, *[_P] * 4, *[_L] * 3, _I)),
    "hc_linear_int8": (_I, (_I, _I, *[_P] * 6, *[_L] * 3, _I)),
    "hc_rms_norm": (None, (_I, *[_P] * 3, *[_L] * 3, _F, _I)),
    "hc_activate": (None, (_I, *[_P] * 2, *[_L] * 2, _I, _I, _I)),
    "hc_apply_rope": (None, (_I, *[_P] * 3, *[_L] * 5, _I)),
    "hc_store_kv": (None, (_I, _I, *[_P] * 4, *[_L] * 4, _I)),
    "hc_paged_attention": (_I, (_P,)),
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
    functions = _loaded().functions
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(functions, name)
        function.restype, function.argtypes = result, arguments
    return functions


def native_level() -> str:
    """The level of instructions that the library is compiled for.

    Raises:
        KernelBuildError: there is none on this machine.
    """
    return _loaded().level


def _loaded() -> Library:
    library = load_library()
    if isinstance(library, str):
        raise KernelBuildError(library)
    return library
