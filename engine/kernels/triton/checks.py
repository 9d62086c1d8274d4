"""What launchers refuse, because kernels would read it out of bounds or wrongly. Imports no Triton."""

import torch
from torch import Tensor

from engine.kernels.quantization import LARGEST
from engine.kernels.triton.plan import PagedInputs
from kvcache.storage import SCALE_DTYPE, LayerCache


def check_inputs(inputs: PagedInputs) -> None:
    """Refuse what the kernels would read out of bounds or wrongly.

    Raises:
        ValueError: a shape, dtype or stride does not fit.
    """
    q, (num_blocks, block_size, num_kv_heads, v_head_dim) = inputs.q, inputs.cache.v.shape
    num_seqs, max_blocks = inputs.block_tables.shape
    if q.shape[1] % num_kv_heads:
        raise ValueError(f"q: expected a multiple of {num_kv_heads} heads, got {q.shape[1]}")
    check_cache(inputs.cache, (num_blocks, block_size, num_kv_heads), (q.shape[2], v_head_dim), q.dtype)
    check("block_tables", inputs.block_tables, (num_seqs, max_blocks), torch.int64)
    check("cu_seqlens_q", inputs.cu_seqlens_q, (num_seqs + 1,), torch.int64)
    check("seq_lens", inputs.seq_lens, (num_seqs,), torch.int64)


def check_cache(cache: LayerCache, slots: tuple[int, int, int], widths: tuple[int, int], dtype: torch.dtype) -> None:
    """Refuse a cache that is not of the model's dtype without scales, or of 8 bits with them.

    Args:
        cache: of a layer.
        slots: num_blocks, block_size, num_kv_heads.
        widths: k_head_dim, v_head_dim.
        dtype: of the model.

    Raises:
        ValueError: a shape, dtype or stride does not fit.
    """
    pairs = ("k", cache.k, cache.k_scale), ("v", cache.v, cache.v_scale)
    for (name, numbers, scale), width in zip(pairs, widths, strict=True):
        if (scale is not None) is not (numbers.dtype in LARGEST):
            given = "without a scale" if scale is None else "with a scale"
            raise ValueError(f"cache.{name}: expected a scale with 8-bit numbers only, got {numbers.dtype} {given}")
        check(f"cache.{name}", numbers, (*slots, width), dtype if scale is None else numbers.dtype)
        if scale is not None:
            check(f"cache.{name}_scale", scale, slots, SCALE_DTYPE)


def check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuse all but a contiguous tensor of this shape and dtype.

    Raises:
        ValueError: it is another.
    """
    if tensor.shape != shape or tensor.dtype is not dtype or not tensor.is_contiguous():
        given = f"{tensor.dtype} {list(tensor.shape)} with strides {list(tensor.stride())}"
        raise ValueError(f"{name}: expected contiguous {dtype} {list(shape)}, got {given}")
