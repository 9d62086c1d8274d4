"""Products with weights of 8-bit integers in plain PyTorch: the part of reference.py that int8.py is for."""

import torch
from torch import Tensor

from engine.kernels.int8 import dequantize_rows, round_rows
from engine.quantization import GROUP_SIZE


def pack_int8(weight: Tensor, scale: Tensor, depth: int) -> None:
    """Bring a quantized weight into the order that `linear_int8` and `gather_rows_int8` read, in place; once only.

    It is in it already.

    Args:
        weight: [out, in rounded up to a multiple of 4] int8, or [num_groups, ...] of them.
        scale: [out, number of groups of columns] bfloat16, or [num_groups, ...] of them.
        depth: in.
    """


def gather_rows_int8(weight: Tensor, scale: Tensor, row_ids: Tensor, depth: int, dtype: torch.dtype) -> Tensor:
    """Rows of a weight that `pack_int8` had.

    Args:
        weight: [out, in rounded up to a multiple of 4] int8.
        scale: [out, number of groups of columns] bfloat16.
        row_ids: [num_rows] int64.
        depth: in.
        dtype: of the result.

    Returns:
        [num_rows, in].
    """
    return dequantize_rows(weight.index_select(0, row_ids), scale.index_select(0, row_ids), depth).to(dtype)


def linear_int8(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    is_wide: bool = False,
) -> Tensor:
    """X W^T, plus what is given, with x rounded to integers too.

    Args:
        x: [num_tokens, in].
        weight: [out, in rounded up to a multiple of 4] int8.
        scale: [out, number of groups of columns] bfloat16.
        bias: [out].
        residual: [num_tokens, out].
        is_wide: whether the result is float32 at least.

    Returns:
        [num_tokens, out].
    """
    numbers, x_scale = round_rows(x)
    sums = torch.zeros(len(x), len(weight), device=x.device)
    for group in range(scale.shape[-1]):
        columns = weight[:, group * GROUP_SIZE : (group + 1) * GROUP_SIZE]
        sums += _group_products(numbers[:, group], x_scale[:, group], columns, scale[:, group])
    for term in (bias, residual):
        if term is not None:
            sums += term.float()
    return sums.to(torch.promote_types(x.dtype, torch.float32) if is_wide else x.dtype)


def _group_products(numbers: Tensor, x_scale: Tensor, columns: Tensor, scale: Tensor) -> Tensor:
    """What a group of columns adds. The products are sums of integers below 2^24, so exact: 64 * 127 * 127 is less."""
    products = numbers[:, : columns.shape[1]] @ columns.float().t()
    return products.mul_(scale.float() * x_scale.unsqueeze(-1))


def grouped_linear_int8(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, counts: Tensor) -> Tensor:
    """Rows of x in groups, each times the weight of its group.

    Args:
        x: [num_rows, in], sorted by group.
        weight: [num_groups, out, in rounded up to a multiple of 4] int8.
        scale: [num_groups, out, number of groups of columns] bfloat16.
        bias: [num_groups, out].
        counts: [num_groups] int64: rows of each group; they sum to num_rows.

    Returns:
        [num_rows, out].
    """
    biases = [None] * len(weight) if bias is None else [*bias]
    groups = zip(x.split(counts.tolist()), weight, scale, biases, strict=True)
    return torch.cat([linear_int8(rows, w, s, b) for rows, w, s, b in groups if len(rows)])
