"""Paged attention against attention computed token by token in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints.cache import cache_folder
from engine.kernels import cpu
from kvcache.storage import LayerCache
from tests.engine.attention.naive_attention import Case, Shape, make_case, naive_attention
from tests.engine.kernels.emulation import Emulated, emulated_amx, emulated_pairs, need_level
from tests.engine.kernels.rounding import DTYPES, FLOAT32_EPS, assert_within, output_eps, sum_eps

Native = Callable[..., cpu.CpuKernels]
RAGGED = ([1, 40, 1, 5, 1, 13], [150, 40, 64, 71, 3, 130])


def attend(kernels: cpu.CpuKernels, case: Case, **options: Any) -> torch.Tensor:
    return kernels.paged_attention(
        case.q, case.cache, case.block_tables, cu_seqlens_q=case.cu_seqlens_q, seq_lens=case.seq_lens, **options
    )


def check(
    kernels: cpu.CpuKernels,
    case: Case,
    softmax_scale: float,
    window: int | None = None,
    *,
    qkv: torch.Tensor | None = None,
) -> None:
    """Scores are off by their sums' error, which weighs each value by e^error; then comes the sum over the values."""
    dtype = case.q.dtype
    exact = naive_attention(case, softmax_scale, window)
    magnitude = naive_attention(case._replace(v_cache=case.v_cache.abs()), softmax_scale, window)
    longest = case.q.double().norm(dim=-1).max() * case.k_cache.double().nan_to_num(0).norm(dim=-1).max()
    score_error = sum_eps(case.q.shape[-1]) * longest * softmax_scale + 4 * FLOAT32_EPS
    bound = (2 * score_error + sum_eps(int(case.seq_lens.max()))) * magnitude
    bound = bound + output_eps(dtype) * exact.abs() * 1.01
    assert_within(attend(kernels, case, softmax_scale=softmax_scale, sliding_window=window), exact, bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 1, 20, 70])
@pytest.mark.parametrize(("num_q_heads", "num_kv_heads"), [(4, 4), (6, 2), (5, 1), (40, 1)])
def test_heads_and_windows(
    num_q_heads: int, num_kv_heads: int, window: int | None, dtype: torch.dtype, native: Native
) -> None:
    shape = Shape(num_q_heads, num_kv_heads, 32, 32, block_size=16)
    check(native(dtype), make_case(shape, *RAGGED, dtype), 32**-0.5, window)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("k_head_dim", "v_head_dim"), [(16, 16), (64, 64), (80, 80), (96, 128), (192, 128), (256, 256), (7, 33)]
)
def test_head_dims(k_head_dim: int, v_head_dim: int, dtype: torch.dtype, native: Native) -> None:
    shape = Shape(6, 2, k_head_dim, v_head_dim, block_size=16)
    check(native(dtype), make_case(shape, *RAGGED, dtype), k_head_dim**-0.5)


@pytest.mark.parametrize("k_head_dim", [2, 7, 16, 64, 80, 192])
def test_scores_of_pairs(k_head_dim: int, native: Native) -> None:
    """As AVX512-BF16 multiplies queries and keys, on any CPU; an odd number of dimensions is widened as elsewhere."""
    shape = Shape(6, 2, k_head_dim, 32, block_size=16)
    with emulated_pairs(cache_folder() / "kernels"):
        check(native(torch.bfloat16), make_case(shape, *RAGGED, torch.bfloat16), k_head_dim**-0.5, window=70)


@pytest.mark.parametrize(("num_q_heads", "num_kv_heads"), [(6, 2), (34, 2), (40, 1)])
@pytest.mark.parametrize(("k_head_dim", "v_head_dim"), [(32, 32), (64, 64), (96, 96), (192, 160), (64, 80)])
def test_by_amx(num_q_heads: int, num_kv_heads: int, k_head_dim: int, v_head_dim: int, native: Native) -> None:
    """As AMX multiplies, on other CPUs too: tiles of rows that are full, short, or overlap. 80 columns are not for it."""
    shape = Shape(num_q_heads, num_kv_heads, k_head_dim, v_head_dim, block_size=16)
    with emulated_amx(cache_folder() / "kernels"):
        check(native(torch.bfloat16), make_case(shape, *RAGGED, torch.bfloat16), k_head_dim**-0.5, window=70)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 600])
def test_long_contexts_are_split_among_threads(window: int | None, dtype: torch.dtype, native: Native) -> None:
    shape = Shape(3, 1, 16, 16, block_size=16)
    check(native(dtype), make_case(shape, [1, 2], [1500, 1026], dtype), 0.25, window)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ragged_batches(dtype: torch.dtype, native: Native) -> None:
    kernels = native(dtype)
    lengths = st.tuples(st.integers(1, 30), st.integers(0, 80))

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(
        st.lists(lengths, min_size=1, max_size=4),
        st.sampled_from([1, 3, 16, 64]),
        st.sampled_from([None, 1, 9, 64, 65]),
    )
    def check_batch(lens: list[tuple[int, int]], block_size: int, window: int | None) -> None:
        query_lens = [query_len for query_len, _ in lens]
        case = make_case(Shape(4, 2, 24, 16, block_size), query_lens, [sum(pair) for pair in lens], dtype)
        check(kernels, case, 0.2, window)

    check_batch()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 100])
def test_a_token_gets_the_same_alone_in_a_batch_and_in_chunks(
    window: int | None, dtype: torch.dtype, native: Native
) -> None:
    assert_same_in_chunks(native(dtype), dtype, window)


@pytest.mark.parametrize("emulated", [emulated_pairs, emulated_amx])
def test_other_instructions_give_the_same_alone_and_in_chunks(emulated: Emulated, native: Native) -> None:
    with emulated(cache_folder() / "kernels"):
        assert_same_in_chunks(native(torch.bfloat16), torch.bfloat16, window=100)


def test_the_emulation_is_what_amx_does(native: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    need_level("amx", monkeypatch)
    case = make_case(Shape(34, 2, 64, 96, block_size=16), *RAGGED, torch.bfloat16)
    by_cpu = attend(native(torch.bfloat16), case, softmax_scale=0.125)
    with emulated_amx(cache_folder() / "kernels"):
        assert torch.equal(attend(native(torch.bfloat16), case, softmax_scale=0.125), by_cpu)


def assert_same_in_chunks(kernels: cpu.CpuKernels, dtype: torch.dtype, window: int | None) -> None:
    whole = make_case(Shape(6, 2, 64, 64, block_size=16), [1100], [1100], dtype)
    together = attend(kernels, whole, softmax_scale=0.125, sliding_window=window)
    for start, stop in ((0, 1), (63, 64), (511, 530), (1000, 1013), (1099, 1100)):
        part = whole._replace(
            q=whole.q[start:stop], cu_seqlens_q=torch.tensor([0, stop - start]), seq_lens=torch.tensor([stop])
        )
        alone = attend(kernels, part, softmax_scale=0.125, sliding_window=window)
        assert torch.equal(alone, together[start:stop])


SHARED_LENS = {
    "decodes": ([1] * 9, [130, 64, 71, 1, 130, 200, 190, 180, 170]),
    "ragged": ([1, 3, 1, 40, 7, 1, 1], [600, 130, 64, 40, 71, 1, 1100]),
    "long": ([1] * 24, [1500] * 24),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 70])
@pytest.mark.parametrize("lens", SHARED_LENS)
def test_a_token_gets_the_same_however_threads_share_the_work(
    lens: str, window: int | None, dtype: torch.dtype, native: Native
) -> None:
    case = make_case(Shape(12, 4, 64, 64, block_size=16), *SHARED_LENS[lens], dtype)
    # One thread has tasks enough for all heads of few tokens to go together, and splits enough to go run by run.
    few, *others = (
        attend(native(dtype, count), case, softmax_scale=0.125, sliding_window=window) for count in (1, 3, 64)
    )
    assert all(torch.equal(few, other) for other in others)


def test_q_may_be_a_view_of_qkv(native: Native) -> None:
    kernels = native(torch.float32)
    case = make_case(Shape(), *RAGGED, torch.float32)
    wide = torch.full((case.q.shape[0], 6 * 16 + 9), torch.nan)
    wide[:, : 6 * 16] = case.q.flatten(1)
    view = case._replace(q=wide[:, : 6 * 16].unflatten(1, (6, 16)))
    assert torch.equal(attend(kernels, view, softmax_scale=0.25), attend(kernels, case, softmax_scale=0.25))


def test_large_scores_do_not_overflow(native: Native) -> None:
    case = make_case(Shape(), *RAGGED, torch.float32)
    out = attend(native(torch.float32), case._replace(q=case.q * 1e4), softmax_scale=1.0)
    exact = naive_attention(case._replace(q=case.q * 1e4), 1.0)
    torch.testing.assert_close(out.double(), exact, atol=0.05, rtol=0)


def test_what_does_not_fit_is_refused(native: Native) -> None:
    kernels, case = native(torch.float32), make_case(Shape(), [1, 2], [5, 9], torch.float32)
    for changed, name in (
        ({"q": case.q.double()}, "q: expected"),
        ({"q": case.q[:, :5]}, "q: expected a multiple of 2 heads, got 5"),
        ({"k_cache": case.k_cache[..., :8]}, r"cache\.k"),
        ({"v_cache": case.v_cache.transpose(0, 1)}, r"cache\.[kv]"),
        ({"block_tables": case.block_tables.int()}, "block_tables"),
        ({"cu_seqlens_q": case.cu_seqlens_q[:2]}, "cu_seqlens_q"),
        ({"seq_lens": case.seq_lens[:1]}, "seq_lens"),
        ({"q": case.q[0]}, "q: expected 3 dimensions"),
        ({"q": case.q.transpose(1, 2).contiguous().transpose(1, 2)}, "q: expected 3 dimensions .* contiguous rows"),
        ({"q": case.q.to("meta")}, "q: expected .* on meta"),
        ({"block_tables": case.block_tables.flatten()}, "block_tables: expected 4 and 2 dimensions"),
        ({"block_tables": case.block_tables.t().contiguous().t()}, "block_tables: expected contiguous"),
        ({"seq_lens": case.seq_lens.to("meta")}, "seq_lens: expected .* on meta"),
        ({"cu_seqlens_q": torch.tensor([0, 1, 4])}, "cu_seqlens_q: expected offsets from 0 to 3"),
        ({"cu_seqlens_q": torch.tensor([0, 4, 3])}, "cu_seqlens_q: expected offsets from 0 to 3"),
        ({"seq_lens": torch.tensor([5, 1])}, "no more tokens between them than seq_lens"),
        ({"seq_lens": torch.tensor([5, 900])}, "seq_lens no longer than their block_tables"),
    ):
        with pytest.raises(ValueError, match=name):
            attend(kernels, case._replace(**changed), softmax_scale=1.0)


def test_caches_and_numbers_a_head_that_do_not_fit_are_refused(native: Native) -> None:
    kernels, case = native(torch.float32), make_case(Shape(), [1, 2], [5, 9], torch.float32)
    numbers, scale = torch.zeros_like(case.k_cache, dtype=torch.int8), torch.zeros(case.k_cache.shape[:3]).half()
    tables = {"cu_seqlens_q": case.cu_seqlens_q, "seq_lens": case.seq_lens, "softmax_scale": 1.0}
    for cache, name in (
        (LayerCache(numbers, numbers), r"cache\.k_scale: expected where the cache has 8 bits"),
        (LayerCache(numbers, numbers, scale), r"cache\.v_scale: expected where the cache has 8 bits"),
        (LayerCache(numbers, numbers, scale.float(), scale), r"cache\.k_scale: expected contiguous torch\.float16"),
        (LayerCache(numbers, numbers, scale, scale[:2]), r"cache\.v_scale: expected contiguous torch\.float16"),
        (LayerCache(numbers, case.v_cache, scale, scale), r"cache\.v: expected contiguous torch\.int8"),
        (LayerCache(case.k_cache, case.v_cache, scale, scale), r"cache\.k_scale: expected where the cache"),
        (LayerCache(case.k_cache.bfloat16(), case.v_cache.bfloat16()), r"cache\.k: expected .* got torch\.bfloat16"),
        (LayerCache(case.k_cache, case.v_cache[0]), r"cache\.v, block_tables: expected 4 and 2 dimensions"),
    ):
        with pytest.raises(ValueError, match=name):
            kernels.paged_attention(case.q, cache, case.block_tables, **tables)
    for options in ({"alibi_slopes": torch.zeros(5)}, {"sinks": torch.zeros(12)[::2]}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: expected contiguous"):
            kernels.paged_attention(case.q, case.cache, case.block_tables, **tables, **options)
