"""The C functions with their argument types, as src/*.c declare them."""

import ctypes

_P, _I, _L, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float

SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "hc_linear": (_I, (_I, *[_P] * 5, *[_L] * 3, _I)),
    "hc_rms_norm": (None, (_I, *[_P] * 3, *[_L] * 3, _F, _I)),
    "hc_activate": (None, (_I, *[_P] * 2, *[_L] * 2, _I, _I, _I)),
    "hc_apply_rope": (None, (_I, *[_P] * 3, *[_L] * 5, _I)),
    "hc_store_rows": (None, (*[_P] * 3, *[_L] * 3, _I)),
    "hc_paged_attention": (_I, (_I, *[_P] * 7, *[_L] * 9, _F, _I)),
}
"""Name -> result and argument types."""


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of its functions, so that ctypes converts and checks arguments."""
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
