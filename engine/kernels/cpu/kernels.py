"""The native kernels with the reference's names and signatures."""

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.kernels import reference
from engine.kernels.build import load_library
from engine.kernels.coverage import ACTIVATIONS, can_fuse
from engine.kernels.cpu import attention
from engine.kernels.cpu.checks import check_rows, check_tensor, describe
from engine.kernels.cpu.int8 import Int8Kernels
from engine.kernels.cpu.layers import NativeLayers
from engine.kernels.cpu.library import DTYPES, native_level, native_library
from engine.models.spec import Activation, DecoderSpec
from kvcache.storage import LayerCache


def objections(device: torch.device, dtype: torch.dtype) -> list[str]:
    """All reasons why the native kernels cannot run there; empty: they can."""
    reasons = []
    if device.type != "cpu":
        reasons.append(f"device {device.type} is not the CPU")
    if dtype not in DTYPES:
        reasons.append(f"dtype {dtype} is none of {', '.join(map(str, DTYPES))}")
    if not reasons and isinstance(reason := load_library(), str):
        reasons.append(reason)
    return reasons


class CpuKernels(Int8Kernels):
    """engine.kernels.base.Kernels in native code, for contiguous tensors of one dtype on the CPU.

    Args:
        dtype: of weights, activations and KV cache.
        num_threads: that share a kernel's work; None: PyTorch's number at this moment.

    Raises:
        KernelBuildError: `objections` has some.
    """

    has_graphable_experts = False
    rope_and_store = None

    def __init__(self, dtype: torch.dtype, num_threads: int | None = None) -> None:
        super().__init__(dtype, num_threads or torch.get_num_threads())
        library = native_library()
        self.name = f"cpu ({native_level()})"
        self._pack, self._gather_rows = library.hc_pack, library.hc_gather_rows
        self._linear, self._rms_norm, self._activate = library.hc_linear, library.hc_rms_norm, library.hc_activate
        self._rope = library.hc_apply_rope

    def pack(self, weight: Tensor) -> None:
        """See reference.pack; src/linear.c says what the order is.

        Raises:
            ValueError: shapes, dtypes or strides do not fit.
            MemoryError: no room for the scratch.
        """
        self._check("weight", weight, tuple(weight.shape))
        width, depth = weight.shape[-2:]
        for matrix in weight if weight.dim() == 3 else [weight]:
            if self._pack(self._code, matrix.data_ptr(), width, depth, self._num_threads):
                raise MemoryError(f"no scratch memory to pack a weight of {width} rows of {depth} numbers")

    def gather_rows(self, weight: Tensor, row_ids: Tensor) -> Tensor:
        """See reference.gather_rows.

        Raises:
            ValueError: shapes, dtypes or strides do not fit, or a row is not there.
        """
        width, depth = weight.shape
        self._check("weight", weight, (width, depth))
        num_ids = len(row_ids)
        check_tensor("row_ids", row_ids, (num_ids,), torch.int64)
        lowest, highest = map(int, row_ids.aminmax()) if num_ids else (0, 0)
        if lowest < 0 or highest >= width:
            raise ValueError(f"row_ids: expected 0 to {width - 1}, got {lowest} to {highest}")
        out = torch.empty(num_ids, depth, dtype=self._dtype)
        pointers = (weight.data_ptr(), row_ids.data_ptr(), out.data_ptr())
        self._gather_rows(self._code, *pointers, num_ids, width, depth, self._num_threads)
        return out

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        is_wide: bool = False,
    ) -> Tensor:
        """See reference.linear. A wide product is not rounded in between.

        Raises:
            ValueError: shapes, dtypes or strides do not fit.
            MemoryError: no room for the scratch.
        """
        (num_rows, depth), width = x.shape, weight.shape[0]
        x = x.contiguous()
        y = torch.empty(num_rows, width, dtype=torch.float32 if is_wide else self._dtype)
        self._check("x", x, (num_rows, depth))
        self._check("weight", weight, (width, depth))
        bias_ptr = residual_ptr = None
        if bias is not None:
            self._check("bias", bias, (width,))
            bias_ptr = bias.data_ptr()
        if residual is not None:
            self._check("residual", residual, (num_rows, width))
            residual_ptr = residual.data_ptr()
        pointers = (x.data_ptr(), weight.data_ptr(), bias_ptr, residual_ptr, y.data_ptr())
        if self._linear(self._code, DTYPES[y.dtype], *pointers, num_rows, width, depth, self._num_threads):
            raise MemoryError(f"no scratch memory for a product of {num_rows} rows of {depth} numbers")
        return y

    def grouped_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, counts: Tensor) -> Tensor:
        """See reference.grouped_linear.

        Raises:
            ValueError: shapes, dtypes or strides do not fit.
            MemoryError: no room for the scratch.
        """
        biases = [None] * len(weight) if bias is None else [*bias]
        groups = zip(x.split(counts.tolist()), weight, biases, strict=True)
        return torch.cat([self.linear(rows, w, b) for rows, w, b in groups if len(rows)])

    def rms_norm(self, x: Tensor, weight: Tensor | None, eps: float, *, weight_offset: float = 0.0) -> Tensor:
        """See reference.rms_norm, which it is where the native kernel does not know the kind of weight.

        Raises:
            ValueError: shapes, dtypes or strides do not fit.
        """
        if weight is None or weight_offset or x.dim() != 2:
            return reference.rms_norm(x, weight, eps, weight_offset=weight_offset)
        num_rows, width = x.shape
        stride = check_rows("x", x, 2, self._dtype)
        self._check("weight", weight, (width,))
        y = torch.empty(num_rows, width, dtype=self._dtype)
        pointers = (x.data_ptr(), weight.data_ptr(), y.data_ptr())
        self._rms_norm(self._code, *pointers, num_rows, width, stride, eps, self._num_threads)
        return y

    def layer_norm(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, *, weight_offset: float = 0.0
    ) -> Tensor:
        """See reference.layer_norm, which it is: PyTorch's own is one fused kernel."""
        return reference.layer_norm(x, weight, bias, eps, weight_offset=weight_offset)

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        """See reference.activate.

        Raises:
            ValueError: shapes, dtypes or strides do not fit.
        """
        return self._activated(x, activation, is_gated=False)

    def activate_and_multiply(self, gate_up: Tensor, activation: Activation) -> Tensor:
        """See reference.activate_and_multiply.

        Raises:
            ValueError: shapes, dtypes or strides do not fit.
        """
        return self._activated(gate_up, activation, is_gated=True)

    def _activated(self, x: Tensor, activation: Activation, *, is_gated: bool) -> Tensor:
        kind = ACTIVATIONS.get(activation)
        if kind is None:
            return (reference.activate_and_multiply if is_gated else reference.activate)(x, activation)
        self._check("x", x, tuple(x.shape))
        if x.dim() != 2 or (is_gated and x.shape[1] % 2):
            raise ValueError(f"x: expected rows of {'gate and up' if is_gated else 'numbers'}, got {describe(x)}")
        num_rows, width = x.shape[0], x.shape[1] // (2 if is_gated else 1)
        y = torch.empty(num_rows, width, dtype=self._dtype)
        pointers = (x.data_ptr(), y.data_ptr())
        self._activate(self._code, *pointers, num_rows, width, kind, is_gated, self._num_threads)
        return y

    def apply_rope(self, x: Tensor, cos: Tensor, sin: Tensor, *, is_interleaved: bool = False) -> None:
        """See reference.apply_rope, which it is for interleaved pairs.

        Raises:
            ValueError: shapes, dtypes or strides do not fit.
        """
        if is_interleaved:
            reference.apply_rope(x, cos, sin, is_interleaved=True)
            return
        stride = check_rows("x", x, 3, self._dtype)
        num_rows, num_heads, head_dim = x.shape
        half = cos.shape[-1]
        for name, angles in (("cos", cos), ("sin", sin)):
            check_tensor(name, angles, (num_rows, half), torch.float32)
        if 2 * half > head_dim:
            raise ValueError(f"cos: expected at most {head_dim // 2} columns, got {half}")
        pointers = (x.data_ptr(), cos.data_ptr(), sin.data_ptr())
        self._rope(self._code, *pointers, num_rows, num_heads, head_dim, half, stride, self._num_threads)

    def store_kv(self, k: Tensor, v: Tensor, cache: LayerCache, slot_mapping: Tensor) -> None:
        """See reference.store_kv.

        Raises:
            ValueError: shapes, dtypes or strides do not fit.
        """
        attention.store_kv(k, v, cache, slot_mapping, self._num_threads)

    def paged_attention(
        self,
        q: Tensor,
        cache: LayerCache,
        block_tables: Tensor,
        *,
        cu_seqlens_q: Tensor,
        seq_lens: Tensor,
        softmax_scale: float,
        sliding_window: int | None = None,
        softcap: float | None = None,
        alibi_slopes: Tensor | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """See reference.paged_attention.

        Raises:
            ValueError: shapes, dtypes or strides do not fit, or lengths do not fit together.
            MemoryError: no room for the scratch.
        """
        scoring = attention.Scoring(softmax_scale, sliding_window, softcap, alibi_slopes, sinks)
        tables = attention.Tables(block_tables, cu_seqlens_q, seq_lens)
        return attention.paged_attention(q, cache, tables, scoring, self._num_threads)

    def compile_layers(self, spec: DecoderSpec, parameters: Mapping[str, Tensor]) -> NativeLayers | None:
        """See engine.kernels.base.Kernels.compile_layers.

        Raises:
            ValueError: a parameter is not what it should be.
        """
        return NativeLayers(spec, parameters, self._dtype, self._num_threads) if can_fuse(spec) else None

    def _check(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        """A contiguous tensor of this shape and the kernels' dtype on the CPU."""
        check_tensor(name, tensor, shape, self._dtype)
