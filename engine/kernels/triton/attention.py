"""Launches paged attention: one kernel for sequences that compute one token, another for those that compute more."""

import functools
from typing import Any

import torch
from torch import Tensor

from engine.kernels.triton.checks import check_inputs
from engine.kernels.triton.jit.decode import combine_kernel, decode_kernel
from engine.kernels.triton.jit.prefill import prefill_kernel
from engine.kernels.triton.plan import AttentionPlan, PagedInputs, ScoreOptions
from engine.kernels.triton.tiles import Tile, choose_num_splits, decode_tile, padded, prefill_tile
from engine.kernels.triton.tuning import ShapeClass, find_tile
from kvcache.storage import LayerCache

COMBINED_SPLITS = 16
"""Splits that the combining kernel takes at once."""

INTERPRETED_PROCESSORS = 2
"""What counts as a GPU's processors in the interpreter: few, so that tests stay small."""


def paged_attention(
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
    """See reference.paged_attention. Waits for the device to know the lengths: a backend plans, then calls attend.

    Raises:
        ValueError: shapes, dtypes or strides do not fit.
    """
    plan = AttentionPlan(cu_seqlens_q.diff().tolist(), seq_lens.tolist(), q.device)
    inputs = PagedInputs(q, cache, block_tables, cu_seqlens_q, seq_lens)
    return attend(inputs, ScoreOptions(softmax_scale, sliding_window, softcap, alibi_slopes, sinks), plan)


def attend(inputs: PagedInputs, options: ScoreOptions, plan: AttentionPlan) -> Tensor:
    """Attention of a planned step.

    Args:
        inputs: of the step the plan was made for.
        options: of the layer.
        plan: of the step.

    Returns:
        [num_tokens, num_q_heads, v_head_dim].

    Raises:
        ValueError: shapes, dtypes or strides do not fit.
    """
    num_tokens, num_q_heads, k_head_dim = inputs.q.shape
    # Heads of one token lie side by side: a view of the projection does as it is, anything else is copied.
    if inputs.q.stride()[1:] != (k_head_dim, 1):
        inputs = inputs._replace(q=inputs.q.contiguous())
    check_inputs(inputs)
    out = torch.empty(num_tokens, num_q_heads, inputs.cache.v.shape[-1], dtype=inputs.q.dtype, device=inputs.q.device)
    if plan.num_decodes:
        _decode(out, inputs, options, plan)
    if plan.has_prefills:
        _prefill(out, inputs, options, plan)
    return out


def _prefill(out: Tensor, inputs: PagedInputs, options: ScoreOptions, plan: AttentionPlan) -> None:
    num_kv_heads, shape = inputs.cache.k.shape[2], _shape_class("prefill", inputs)
    default = prefill_tile(shape.head_dim, shape.itemsize, is_8_bit=inputs.cache.k_scale is not None)
    tile = find_tile(shape, default, out.device)
    tile_seqs, tile_rows = plan.prefill_tiles(tile.block_m, shape.num_q_per_kv).unbind(0)
    prefill_kernel[tile_seqs.shape[0], num_kv_heads](
        out,
        *inputs.tensors,
        tile_seqs,
        tile_rows,
        *_scalars(inputs, options),
        **_constants(inputs, tile),
    )


def _decode(out: Tensor, inputs: PagedInputs, options: ScoreOptions, plan: AttentionPlan) -> None:
    num_q_heads, num_kv_heads = inputs.q.shape[1], inputs.cache.k.shape[2]
    v_head_dim, shape = inputs.cache.v.shape[3], _shape_class("decode", inputs)
    tile = find_tile(shape, decode_tile(shape.head_dim, shape.num_q_per_kv, shape.itemsize), out.device)
    num_tiles = num_kv_heads * -(-shape.num_q_per_kv // tile.block_m)
    num_keys = min(plan.max_decode_len, options.sliding_window or plan.max_decode_len)
    num_splits = choose_num_splits(plan.num_decodes * num_tiles, num_keys, num_processors(out.device))
    partial, lse = out, None
    if num_splits > 1:
        rows = num_splits, plan.num_decodes, num_q_heads
        partial = torch.empty(*rows, v_head_dim, dtype=torch.float32, device=out.device)
        lse = torch.empty(rows, dtype=torch.float32, device=out.device)
    decode_kernel[plan.num_decodes, num_tiles, num_splits](
        partial,
        lse,
        *inputs.tensors,
        plan.decode_seqs,
        *_scalars(inputs, options),
        num_kv_heads,
        **_constants(inputs, tile),
    )
    if lse is not None:
        combine_kernel[plan.num_decodes, num_q_heads](
            *(out, partial, lse, inputs.cu_seqlens_q, inputs.seq_lens, plan.decode_seqs, options.sinks),
            *(options.sliding_window, num_splits),
            V_DIM=v_head_dim,
            V_PAD=padded(v_head_dim),
            BLOCK_N=tile.block_n,
            BLOCK_SPLITS=COMBINED_SPLITS,
        )


def _shape_class(kernel: str, inputs: PagedInputs) -> ShapeClass:
    cache = inputs.cache
    return ShapeClass(
        kernel,
        head_dim=max(cache.k.shape[3], cache.v.shape[3]),
        itemsize=inputs.q.element_size(),
        kv_itemsize=cache.k.element_size(),
        num_q_per_kv=inputs.q.shape[1] // cache.k.shape[2],
    )


def _scalars(inputs: PagedInputs, options: ScoreOptions) -> tuple[Any, ...]:
    """The arguments that both kernels have between tables and constants, in order."""
    strides = inputs.cache.k.stride(1), inputs.cache.v.stride(1), inputs.block_tables.stride(0)
    return (
        *(options.alibi_slopes, options.sinks, options.softmax_scale, options.softcap, options.sliding_window),
        *(inputs.q.stride(0), *strides),
    )


def _constants(inputs: PagedInputs, tile: Tile) -> dict[str, int]:
    _, block_size, num_kv_heads, k_head_dim = inputs.cache.k.shape
    v_head_dim = inputs.cache.v.shape[3]
    return {
        "NUM_Q_PER_KV": inputs.q.shape[1] // num_kv_heads,
        "K_DIM": k_head_dim,
        "V_DIM": v_head_dim,
        "K_PAD": padded(k_head_dim),
        "V_PAD": padded(v_head_dim),
        "BLOCK_SIZE": block_size,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }


@functools.cache
def num_processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU."""
    if device.type != "cuda":
        return INTERPRETED_PROCESSORS
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
