"""On what a model runs: which code allocates."""

from typing import Self

import msgspec
import psutil

from engine.dtypes import DTYPE_BYTES, KV_FORMATS, resolve_kv_cache_dtype
from engine.kernels import coverage
from engine.models.spec import DecoderSpec


class Method(msgspec.Struct, frozen=True):
    """The kernels of a model.

    Attributes:
        dtype_bytes: of one activation.
        is_native: layers and attention run on the native CPU kernels, else on the reference.
        is_fused: all layers run in one native call.
        num_threads: of the CPU, each with scratch of its own.
        is_kv_8bit: keys and values are kept in 8 bits; the reference's attention is then computed in float32 or wider.
        is_int8: weights are 8-bit integers.
        has_native_draws: tokens are drawn by the native CPU kernels, which read the logits in place.
    """

    dtype_bytes: int
    is_native: bool
    is_fused: bool
    num_threads: int
    is_kv_8bit: bool = False
    is_int8: bool = False
    has_native_draws: bool = False

    @classmethod
    def predict(
        cls,
        spec: DecoderSpec,
        dtype: str,
        device: str,
        kv_cache_dtype: str = "auto",
        *,
        quantization: str = "none",
    ) -> Self:
        """What the engine chooses for `spec` in `dtype` on `device` (cpu or cuda), where a C compiler is at hand."""
        dtype_bytes = DTYPE_BYTES[dtype]
        is_kv_8bit = KV_FORMATS[resolve_kv_cache_dtype(kv_cache_dtype, dtype)].scale_bytes > 0
        is_native = device == "cpu" and dtype in coverage.NATIVE_DTYPES
        is_fused = is_native and coverage.can_fuse(spec)
        num_threads = psutil.cpu_count(logical=False) or 1 if device == "cpu" else 0
        is_int8 = quantization != "none"
        has_native_draws = device == "cpu" and dtype_bytes <= DTYPE_BYTES["float32"]
        return cls(dtype_bytes, is_native, is_fused, num_threads, is_kv_8bit, is_int8, has_native_draws)

    @property
    def wide_bytes(self) -> int:
        """Of a number in which sums are taken: float32, or float64 where the model is."""
        return max(4, self.dtype_bytes)
