"""Triton's paged attention against the reference in float64, which test_reference_attention.py holds against naive loops."""

from typing import Any

import pytest
import torch

from engine.kernels import reference
from engine.kernels.quantization import LARGEST
from engine.models.alibi import alibi_slopes
from kvcache.storage import LayerCache
from tests.engine.attention.eight_bit import dequantized, quantized
from tests.engine.attention.naive_attention import Case, Shape, make_case
from tests.engine.kernels import triton_setup
from tests.engine.kernels.rounding import FLOAT32_EPS, assert_within, sum_eps
from tests.engine.kernels.triton_setup import output_eps

kernels = triton_setup.import_kernels()

from engine.kernels.triton import attention, tiles  # noqa: E402  only where Triton is

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
RAGGED = ([1, 40, 1, 5, 1, 13], [150, 40, 64, 71, 3, 130])
SMALL = ([1, 9, 1], [70, 20, 33])
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"sliding_window": 20},
    "window-of-one": {"sliding_window": 1},
    "softcap": {"softcap": 2.0},
    "alibi": {"alibi_slopes": True},
    "sinks": {"sinks": True},
    "all": {"sliding_window": 37, "softcap": 2.0, "alibi_slopes": True, "sinks": True},
}


@pytest.fixture(autouse=True)
def _short_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts of these tests are split as long ones are."""
    monkeypatch.setattr(tiles, "MIN_SPLIT_KEYS", 32)


def with_heads(options: dict[str, Any], num_q_heads: int) -> dict[str, Any]:
    """Slopes and sinks for so many heads, where a feature asks for them."""
    torch.manual_seed(1)
    given = {
        "alibi_slopes": torch.tensor(alibi_slopes(num_q_heads), dtype=torch.float32),
        "sinks": 2 * torch.randn(num_q_heads),
    }
    return {name: given.get(name, value) for name, value in options.items()}


def attend(case: Case, cache: LayerCache | None = None, **options: Any) -> torch.Tensor:
    """Triton's answer; over another cache than the case's own, where one is given."""
    case = Case(*(x.to(triton_setup.DEVICE) for x in case))
    cache = LayerCache(*(x if x is None else x.to(triton_setup.DEVICE) for x in cache or case.cache))
    options = {k: v.to(triton_setup.DEVICE) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    others = {"cu_seqlens_q": case.cu_seqlens_q, "seq_lens": case.seq_lens}
    return kernels.paged_attention(case.q, cache, case.block_tables, **others, **options).cpu()


def exact_attention(case: Case, **options: Any) -> torch.Tensor:
    q, *caches = (x.double() for x in case[:3])
    others = {"cu_seqlens_q": case.cu_seqlens_q, "seq_lens": case.seq_lens}
    return reference.paged_attention(q, LayerCache(*caches), case.block_tables, **others, **options)


def check(case: Case, cache: LayerCache | None = None, **options: Any) -> None:
    """Scores are off by their sums' error, and weights rounded to the values' dtype; then comes the sum over the values."""
    dtype, magnitude = case.q.dtype, case._replace(v_cache=case.v_cache.abs())
    options = {"softmax_scale": case.q.shape[-1] ** -0.5, **options}
    exact, largest = exact_attention(case, **options), exact_attention(magnitude, **options)
    longest = case.q.double().norm(dim=-1).max() * case.k_cache.double().nan_to_num(0).norm(dim=-1).max()
    score_error = sum_eps(case.q.shape[-1]) * longest * options["softmax_scale"] + 8 * FLOAT32_EPS
    score_error += 4 * FLOAT32_EPS * options.get("softcap", 0.0)
    if "alibi_slopes" in options:
        score_error += 4 * FLOAT32_EPS * float(case.seq_lens.max())
    rounded = output_eps(dtype) if dtype is not torch.float32 else 0.0
    bound = (2 * score_error + sum_eps(int(case.seq_lens.max())) + 1.01 * rounded) * largest
    bound = bound + output_eps(dtype) * exact.abs() * 1.01 + torch.finfo(torch.float16).smallest_normal * rounded
    assert_within(attend(case, cache, **options), exact, bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("feature", FEATURES)
def test_features(feature: str, dtype: torch.dtype) -> None:
    case = make_case(Shape(6, 2, 64, 64, block_size=16), *RAGGED, dtype)
    check(case, **with_heads(FEATURES[feature], 6))


@pytest.mark.parametrize("kv_cache_dtype", LARGEST, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("feature", FEATURES)
def test_8_bit_caches(feature: str, dtype: torch.dtype, kv_cache_dtype: torch.dtype) -> None:
    """Against the exact attention over what the cache holds; values of the second half are a thousand times smaller."""
    case = make_case(Shape(6, 2, 64, 48, block_size=16), *RAGGED, dtype, unused=0)
    case.v_cache[:, 8:] /= 1000
    cache = quantized(case, kv_cache_dtype)
    held = dequantized(cache, torch.float64)
    check(case._replace(k_cache=held.k, v_cache=held.v), cache, **with_heads(FEATURES[feature], 6))


@pytest.mark.parametrize("feature", ["plain", "all"])
@pytest.mark.parametrize(("num_q_heads", "num_kv_heads"), [(3, 3), (4, 1), (6, 2), (17, 1), (71, 1)])
def test_heads(num_q_heads: int, num_kv_heads: int, feature: str) -> None:
    """MHA, GQA and MQA; groups of more heads than a tile has rows."""
    case = make_case(Shape(num_q_heads, num_kv_heads, 16, 16, block_size=16), *SMALL, torch.float32)
    check(case, **with_heads(FEATURES[feature], num_q_heads))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("k_head_dim", "v_head_dim"),
    [(64, 64), (80, 80), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256), (16, 96), (7, 33)],
)
def test_head_dims(k_head_dim: int, v_head_dim: int, dtype: torch.dtype) -> None:
    check(make_case(Shape(4, 2, k_head_dim, v_head_dim, block_size=16), *SMALL, dtype))


@pytest.mark.parametrize("feature", ["plain", "all"])
@pytest.mark.parametrize("block_size", [1, 16, 24, 32, 64, 128, 256])
def test_block_sizes(block_size: int, feature: str) -> None:
    """Smaller than a tile of keys, as large, larger, and no power of two."""
    case = make_case(Shape(4, 2, 32, 32, block_size), *RAGGED, torch.float32)
    check(case, **with_heads(FEATURES[feature], 4))


@pytest.mark.parametrize("window", [None, 33])
@pytest.mark.parametrize(
    ("query_lens", "seq_lens"),
    [
        ([1], [1]),
        ([1] * 5, [1, 16, 17, 64, 257]),
        ([2], [2]),
        ([64], [64]),
        ([65, 63], [65, 200]),
        ([3, 1, 130], [300, 300, 130]),
        ([1, 0, 2], [9, 30, 20]),
    ],
)
def test_ragged_batches(query_lens: list[int], seq_lens: list[int], window: int | None) -> None:
    """Only decodes, only prompts, chunks after a context, and all of these together."""
    check(make_case(Shape(4, 2, 16, 16, block_size=16), query_lens, seq_lens, torch.float32), sliding_window=window)


@pytest.mark.parametrize("num_splits", [1, 2, 3, 7])
@pytest.mark.parametrize("feature", FEATURES)
def test_splits(feature: str, num_splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the keys are divided, and where some splits get none."""
    monkeypatch.setattr(attention, "choose_num_splits", lambda *_: num_splits)
    case = make_case(Shape(6, 2, 16, 16, block_size=16), [1, 1, 1], [300, 5, 129], torch.float32)
    check(case, **with_heads(FEATURES[feature], 6))


@pytest.mark.parametrize("query_len", [1, 20])
def test_blocks_behind_the_window_are_not_read(query_len: int) -> None:
    """They may be somebody else's by now: here they hold NaN."""
    case, window = make_case(Shape(4, 2, 16, 16, 16), [query_len], [200], torch.float32), 50
    first_key = 200 - query_len - window + 1
    exact = exact_attention(case, softmax_scale=0.25, sliding_window=window)
    slots = [int(case.block_tables[0, p // 16]) * 16 + p % 16 for p in range(first_key)]
    for cache in (case.k_cache, case.v_cache):
        cache.flatten(0, 1)[slots] = torch.nan
    out = attend(case, softmax_scale=0.25, sliding_window=window)
    torch.testing.assert_close(out.double(), exact, atol=1e-5, rtol=0)


def test_q_may_be_a_view_of_qkv() -> None:
    case = make_case(Shape(), *SMALL, torch.float32)
    wide = torch.full((case.q.shape[0], 6 * 16 + 9), torch.nan)
    wide[:, : 6 * 16] = case.q.flatten(1)
    view = case._replace(q=wide[:, : 6 * 16].unflatten(1, (6, 16)))
    apart = case._replace(q=case.q.transpose(0, 1).contiguous().transpose(0, 1))
    expected = attend(case, softmax_scale=0.25)
    assert torch.equal(attend(view, softmax_scale=0.25), expected)
    assert torch.equal(attend(apart, softmax_scale=0.25), expected)


def test_large_scores_do_not_overflow() -> None:
    case = make_case(Shape(), *SMALL, torch.float32)
    large = case._replace(q=case.q * 1e4)
    out, exact = attend(large, softmax_scale=1.0), exact_attention(large, softmax_scale=1.0)
    torch.testing.assert_close(out.double(), exact, atol=0.05, rtol=0)


def test_what_does_not_fit_is_refused() -> None:
    case = make_case(Shape(), [1, 2], [5, 9], torch.float32)
    for changed, name in (
        ({"q": case.q.double()}, "cache.k"),
        ({"q": case.q[:, :5]}, "q: expected a multiple of 2 heads, got 5"),
        ({"k_cache": case.k_cache[..., :8]}, "cache.k"),
        ({"v_cache": case.v_cache.transpose(0, 1)}, "cache.k"),
        ({"block_tables": case.block_tables.int()}, "block_tables"),
        ({"cu_seqlens_q": case.cu_seqlens_q.int()}, "cu_seqlens_q"),
        ({"seq_lens": case.seq_lens.int()}, "seq_lens"),
    ):
        with pytest.raises(ValueError, match=name):
            attend(case._replace(**changed), softmax_scale=1.0)


def test_a_pool_may_hold_more_than_two_to_the_31_numbers() -> None:
    """4 GiB of which only three blocks are touched: the rest is memory that the system has promised and not given."""
    num_blocks = 2**31 // (16 * 2 * 64) + 3
    cache = torch.zeros(num_blocks, 16, 2, 64, dtype=torch.bfloat16, device=triton_setup.DEVICE)
    case = make_case(Shape(4, 2, 64, 64, 16), [1, 12], [20, 12], torch.bfloat16)
    last = torch.tensor([num_blocks - 1, 0, num_blocks - 2])
    first = torch.cat((case.block_tables[0, :2], case.block_tables[1, :1]))
    far = case._replace(block_tables=torch.stack((last[:2], last[2:].expand(2))))
    newest = last[[0, 2]] * 16 + 3
    for values, wanted in ((case.k_cache, "k"), (case.v_cache, "v")):
        cache[last.to(cache.device)] = values[first].to(cache.device)
        same = {"k_cache": case.k_cache, "v_cache": case.v_cache, f"{'v' if wanted == 'k' else 'k'}_cache": values}
        expected = attend(case._replace(**same), softmax_scale=0.125)
        assert torch.equal(attend(far._replace(k_cache=cache, v_cache=cache), softmax_scale=0.125), expected)
    rows = torch.ones(2, 2, 64, dtype=torch.bfloat16, device=cache.device)
    kernels.store_kv(rows, rows, LayerCache(cache, cache), newest.to(cache.device))
    assert torch.equal(cache[last[[0, 2]].to(cache.device), 3], rows)
