"""What the native kernels are handed is checked before its address is taken: they trust every pointer and every stride."""

import torch
from torch import Tensor

from engine.quantization import num_groups, stored_depth


def check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """A contiguous tensor of this shape and dtype on the CPU.

    Raises:
        ValueError: it is another.
    """
    if tensor.shape != shape or tensor.dtype is not dtype or not tensor.is_contiguous() or tensor.device.type != "cpu":
        raise ValueError(f"{name}: expected contiguous {dtype} {list(shape)}, got {describe(tensor)}")


def check_quantized(name: str, weight: Tensor, scale: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse anything but the integers and scales of a weight of this shape.

    Raises:
        ValueError: one of them is something else.
    """
    *rows, depth = shape
    check_tensor(f"{name}.weight", weight, (*rows, stored_depth(depth)), torch.int8)
    check_tensor(f"{name}.scale", scale, (*rows, num_groups(depth)), torch.bfloat16)


def check_rows(name: str, tensor: Tensor, num_dims: int, dtype: torch.dtype) -> int:
    """The stride of the first dimension of a tensor on the CPU whose rows are contiguous.

    Raises:
        ValueError: it has another number of dimensions, another dtype, gaps in its rows, or is somewhere else.
    """
    shape, strides = tensor.shape, tensor.stride()
    fits = len(shape) == num_dims and tensor.dtype is dtype and tensor.device.type == "cpu"
    is_dense = fits and strides[-1] == 1 and (num_dims == 2 or strides[1] == shape[2] or shape[1] == 1)
    if not is_dense:
        raise ValueError(
            f"{name}: expected {num_dims} dimensions of {dtype} with contiguous rows, got {describe(tensor)}"
        )
    return strides[0]


def describe(tensor: Tensor) -> str:
    """Dtype, shape, strides and device."""
    return f"{tensor.dtype} {list(tensor.shape)} with strides {list(tensor.stride())} on {tensor.device}"
