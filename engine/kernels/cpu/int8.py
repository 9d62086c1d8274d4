"""The native products with weights of 8-bit integers."""

import math

import torch
from torch import Tensor

from engine.kernels.cpu.checks import check_quantized, check_tensor
from engine.kernels.cpu.library import DTYPES, native_library
from engine.quantization import num_groups, stored_depth


class Int8Kernels:
    """The part of `CpuKernels` that reads weights of 8-bit integers.

    Args:
        dtype: of activations.
        num_threads: that share a kernel's work.
    """

    def __init__(self, dtype: torch.dtype, num_threads: int) -> None:
        library = native_library()
        self._dtype, self._code, self._num_threads = dtype, DTYPES[dtype], num_threads
        self._pack_int8, self._gather_rows_int8 = library.hc_pack_int8, library.hc_gather_rows_int8
        self._linear_int8, self._quantize_int8 = library.hc_linear_int8, library.hc_quantize_int8

    def quantize_weight(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """See engine.kernels.int8.quantize_weight.

        Raises:
            ValueError: dtype or strides do not fit.
        """
        check_tensor("weight", weight, tuple(weight.shape), self._dtype)
        *rows, depth = weight.shape
        numbers = torch.empty(*rows, stored_depth(depth), dtype=torch.int8)
        scale = torch.empty(*rows, num_groups(depth), dtype=torch.bfloat16)
        pointers = [tensor.data_ptr() for tensor in (weight, numbers, scale)]
        self._quantize_int8(self._code, *pointers, math.prod(rows), depth, self._num_threads)
        return numbers, scale

    def pack_int8(self, weight: Tensor, scale: Tensor, depth: int) -> None:
        """See engine.kernels.int8_linear.pack_int8; src/weights_int8.c says what the order is.

        Raises:
            ValueError: shapes, dtypes or strides do not fit.
            MemoryError: no room for the scratch.
        """
        check_quantized("quantized", weight, scale, (*weight.shape[:-1], depth))
        stacks = zip(weight, scale, strict=True) if weight.dim() == 3 else [(weight, scale)]
        for numbers, scales in stacks:
            pointers = (numbers.data_ptr(), scales.data_ptr())
            if self._pack_int8(*pointers, len(numbers), depth, self._num_threads):
                raise MemoryError(f"no scratch memory to pack a weight of {len(numbers)} rows of {depth} numbers")

    def gather_rows_int8(
        self, weight: Tensor, scale: Tensor, row_ids: Tensor, depth: int, dtype: torch.dtype
    ) -> Tensor:
        """See engine.kernels.int8_linear.gather_rows_int8.

        Raises:
            ValueError: shapes, dtypes or strides do not fit, or a row is not there.
        """
        width, num_ids = len(weight), len(row_ids)
        check_quantized("quantized", weight, scale, (width, depth))
        if dtype is not self._dtype:
            raise ValueError(f"dtype: expected {self._dtype}, got {dtype}")
        check_tensor("row_ids", row_ids, (num_ids,), torch.int64)
        lowest, highest = map(int, row_ids.aminmax()) if num_ids else (0, 0)
        if lowest < 0 or highest >= width:
            raise ValueError(f"row_ids: expected 0 to {width - 1}, got {lowest} to {highest}")
        out = torch.empty(num_ids, depth, dtype=dtype)
        pointers = [tensor.data_ptr() for tensor in (weight, scale, row_ids, out)]
        self._gather_rows_int8(self._code, *pointers, num_ids, width, depth, self._num_threads)
        return out

    def linear_int8(
        self,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        is_wide: bool = False,
    ) -> Tensor:
        """See engine.kernels.int8_linear.linear_int8.

        Raises:
            ValueError: shapes, dtypes or strides do not fit.
            MemoryError: no room for the scratch.
        """
        (num_rows, depth), width = x.shape, len(weight)
        x = x.contiguous()
        check_tensor("x", x, (num_rows, depth), self._dtype)
        check_quantized("quantized", weight, scale, (width, depth))
        y = torch.empty(num_rows, width, dtype=torch.float32 if is_wide else self._dtype)
        pointers = [tensor.data_ptr() for tensor in (x, weight, scale)]
        for name, term, shape in (("bias", bias, (width,)), ("residual", residual, (num_rows, width))):
            if term is not None:
                check_tensor(name, term, shape, self._dtype)
        extra = [None if term is None else term.data_ptr() for term in (bias, residual)]
        tensors, sizes = (*pointers, *extra, y.data_ptr()), (num_rows, width, depth)
        if self._linear_int8(self._code, DTYPES[y.dtype], *tensors, *sizes, self._num_threads):
            raise MemoryError(f"no scratch memory for a product of {num_rows} rows of {depth} numbers")
        return y

    def grouped_linear_int8(
        self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, counts: Tensor
    ) -> Tensor:
        """See engine.kernels.int8_linear.grouped_linear_int8.

        Raises:
            ValueError: shapes, dtypes or strides do not fit.
            MemoryError: no room for the scratch.
        """
        biases = [None] * len(weight) if bias is None else [*bias]
        groups = zip(x.split(counts.tolist()), weight, scale, biases, strict=True)
        return torch.cat([self.linear_int8(rows, w, s, b) for rows, w, s, b in groups if len(rows)])
