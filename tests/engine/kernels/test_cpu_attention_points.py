"""Every level of this CPU on a table that has each pair of values once or more; `make soak` runs the full product."""

import itertools
from collections.abc import Callable

import pytest
import torch

from checkpoints.cache import cache_folder
from engine.kernels import cpu
from tests.engine.kernels.attention_cases import Point, check_point
from tests.engine.kernels.emulation import emulated_amx

Native = Callable[..., cpu.CpuKernels]

BLOCK_SIZES = [1, 16, 24]
SEQ_LENS = [1, 63, 130, 600]
NUM_Q_PER_KV = [1, 3, 8]
HEAD_DIMS = [(64, 64), (80, 48), (7, 33), (256, 128)]
DTYPES = [torch.float32, torch.bfloat16]
KV_DTYPES = [None, torch.int8, torch.float8_e4m3fn]
OPTIONS: list[tuple[str, ...]] = [
    (),
    ("softcap",),
    ("alibi_slopes",),
    ("sinks",),
    ("sliding_window", "sinks", "softcap", "alibi_slopes"),
]
AXES = (BLOCK_SIZES, SEQ_LENS, NUM_Q_PER_KV, HEAD_DIMS, DTYPES, KV_DTYPES, OPTIONS)


def cover_pairs() -> list[Point]:
    """Points such that any two values of two axes are in one of them: greedily, in a fixed order."""
    products = [Point(*values) for values in itertools.product(*AXES)]
    pairs = {point: set(itertools.combinations(enumerate(map(str, point)), 2)) for point in products[::7]}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        best = max(pairs, key=lambda point: len(pairs[point] & missing))
        chosen.append(best)
        missing -= pairs[best]
    return chosen


def test_the_table_has_every_pair() -> None:
    chosen = cover_pairs()
    for (i, left), (j, right) in itertools.combinations(enumerate(AXES), 2):
        assert {(point[i], point[j]) for point in chosen} == set(itertools.product(left, right))


def test_the_table(level: str, native: Native) -> None:
    for point in cover_pairs():
        check_point(native, point)


@pytest.mark.parametrize("kv_dtype", KV_DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda names: "-".join(names) or "plain")
def test_each_option(options: tuple[str, ...], kv_dtype: torch.dtype | None, native: Native) -> None:
    for dtype in DTYPES:
        check_point(native, Point(16, 100, 3, (64, 64), dtype, kv_dtype, options))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda names: "-".join(names) or "plain")
def test_each_option_by_amx(options: tuple[str, ...], native: Native) -> None:
    with emulated_amx(cache_folder() / "kernels"):
        check_point(native, Point(16, 100, 3, (64, 64), torch.bfloat16, None, options))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_heads_wider_than_any_tile(dtype: torch.dtype, native: Native) -> None:
    check_point(native, Point(16, 70, 2, (512, 512), dtype))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_full_product(level: str, native: Native) -> None:
    for values in itertools.product(*AXES):
        point = Point(*values)
        check_point(native, point)
