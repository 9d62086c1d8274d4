"""Cases for the native attention kernel, and how far each may be from the oracle in float64."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.kernels import cpu, reference
from engine.kernels.quantization import quantize
from kvcache.storage import LayerCache
from tests.engine.attention.naive_attention import Case, Shape, make_case
from tests.engine.kernels.rounding import FLOAT32_EPS, assert_within, output_eps, sum_eps

NUM_KV_HEADS = 2


class Point(NamedTuple):
    """One combination of what the kernel has code of its own for.

    Attributes:
        block_size: tokens in a block.
        seq_len: of the longest sequence; others of the batch are shorter, and compute one token or many.
        num_q_per_kv: query heads of a KV head.
        head_dim: of keys and of values.
        dtype: of q.
        kv_dtype: of the cache; None: that of q.
        options: of reference.paged_attention: names of `OPTIONS`.
    """

    block_size: int
    seq_len: int
    num_q_per_kv: int
    head_dim: tuple[int, int]
    dtype: torch.dtype
    kv_dtype: torch.dtype | None = None
    options: tuple[str, ...] = ()


def options_of(names: tuple[str, ...], num_q_heads: int) -> dict[str, Any]:
    """Arguments of paged_attention; large enough to change every output."""
    torch.manual_seed(1)
    known = {
        "softcap": 4.0,
        "alibi_slopes": torch.rand(num_q_heads),
        "sinks": torch.randn(num_q_heads),
        "sliding_window": 21,
    }
    return {name: known[name] for name in names}


def ragged_case(point: Point) -> Case:
    """A decode, a whole prompt, a chunk, a first token, and one token of a short sequence."""
    long = point.seq_len
    lens = [(1, long), (min(long, 40), min(long, 40)), (min(long, 7), max(1, long // 2)), (1, 1), (1, max(1, long - 1))]
    query_lens, seq_lens = [min(pair) for pair in lens], [seq_len for _, seq_len in lens]
    shape = Shape(NUM_KV_HEADS * point.num_q_per_kv, NUM_KV_HEADS, *point.head_dim, point.block_size)
    return make_case(shape, query_lens, seq_lens, point.dtype)


def eight_bit(case: Case, kv_dtype: torch.dtype | None) -> LayerCache:
    """The case's cache in that format; slots that hold no token have NaN for a scale."""
    if kv_dtype is None:
        return case.cache
    (k, k_scale), (v, v_scale) = (quantize(numbers, kv_dtype) for numbers in (case.k_cache, case.v_cache))
    return LayerCache(k, v, k_scale, v_scale)


def check_point(native: Callable[..., cpu.CpuKernels], point: Point) -> None:
    """The kernel against the reference in float64 on the same numbers.

    Args:
        native: the fixture. One thread takes all KV heads of few tokens together, many take one by one.
        point: what to try.
    """
    case, softmax_scale = ragged_case(point), point.head_dim[0] ** -0.5
    cache = eight_bit(case, point.kv_dtype)
    options = options_of(point.options, case.q.shape[1])
    tables = {"cu_seqlens_q": case.cu_seqlens_q, "seq_lens": case.seq_lens, "softmax_scale": softmax_scale}
    actual, by_head = (
        native(point.dtype, count).paged_attention(case.q, cache, case.block_tables, **tables, **options)
        for count in (1, 16)
    )
    assert torch.equal(actual, by_head)
    wide = LayerCache(*(_widened(*part) for part in ((cache.k, cache.k_scale), (cache.v, cache.v_scale))))
    exact = reference.paged_attention(case.q.double(), wide, case.block_tables, **tables, **options)
    positive = wide._replace(v=wide.v.abs())
    magnitude = reference.paged_attention(case.q.double(), positive, case.block_tables, **tables, **options)
    bound = _relative_bound(point, case, wide.k, softmax_scale, options) * magnitude
    assert_within(actual, exact, bound + output_eps(point.dtype) * exact.abs() * 1.01)


def _widened(numbers: Tensor, scale: Tensor | None) -> Tensor:
    return numbers.double() if scale is None else numbers.double() * scale.double().unsqueeze(-1)


def _relative_bound(point: Point, case: Case, k: Tensor, softmax_scale: float, options: dict[str, Any]) -> float:
    """Scores are off by their sums' error, by that of what is done to them, and weigh each value by e^error."""
    longest = float(case.q.double().norm(dim=-1).max() * k.nan_to_num(0).norm(dim=-1).max())
    score_error = sum_eps(point.head_dim[0] + 2) * longest * softmax_scale + 4 * FLOAT32_EPS
    # tanh is off by a few units in its last place, and ALiBi's bias by one rounding.
    largest = options.get("softcap", 0.0) * 8 + (point.seq_len if "alibi_slopes" in options else 0) * 2
    return 2 * (score_error + largest * FLOAT32_EPS) + sum_eps(point.seq_len + 2)
