"""Matrix products of experts: rows sorted by group, each group with a weight of its own."""

import triton
import triton.language as tl


@triton.jit
def grouped_kernel(
    out_ptr,  # [num_rows, out]
    x_ptr,  # [num_rows, IN]
    weight_ptr,  # [num_groups, out, IN]
    bias_ptr,  # [num_groups, out] | None
    tile_groups_ptr,  # [num_tiles] int64; num_groups: no tile
    tile_starts_ptr,  # [num_tiles] int64: its first row
    group_ends_ptr,  # [num_groups] int64: past the last row of each group
    num_groups,
    num_outputs,
    IN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of one group's product. Grid: [num_tiles, tiles of outputs]."""
    group = tl.load(tile_groups_ptr + tl.program_id(0))
    if group >= num_groups:
        return
    start, stop = tl.load(tile_starts_ptr + tl.program_id(0)), tl.load(group_ends_ptr + group)
    # [BLOCK_M], [BLOCK_N]
    rows = start + tl.arange(0, BLOCK_M)
    outputs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_output = rows < stop, outputs < num_outputs
    places = (group * num_outputs + outputs) * IN
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for depth in range(0, IN, BLOCK_K):
        dims = depth + tl.arange(0, BLOCK_K)
        # [BLOCK_M, BLOCK_K], [BLOCK_N, BLOCK_K]
        x_mask, weight_mask = is_row[:, None] & (dims < IN)[None, :], is_output[:, None] & (dims < IN)[None, :]
        x = tl.load(x_ptr + rows[:, None] * IN + dims[None, :], mask=x_mask, other=0.0)
        weight = tl.load(weight_ptr + places[:, None] + dims[None, :], mask=weight_mask, other=0.0)
        acc = tl.dot(x, tl.trans(weight), acc, input_precision="ieee")
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + group * num_outputs + outputs, mask=is_output, other=0.0)
        acc += bias.to(tl.float32)[None, :]
    mask = is_row[:, None] & is_output[None, :]
    tl.store(out_ptr + rows[:, None] * num_outputs + outputs[None, :], acc.to(out_ptr.dtype.element_ty), mask=mask)
