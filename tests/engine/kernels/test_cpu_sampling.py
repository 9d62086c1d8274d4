"""The native draws against the reference: the same tokens, ties and edges included."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from engine.kernels import cpu
from engine.kernels import sampling as reference

if cpu.objections(torch.device("cpu"), torch.float32):
    pytest.skip("no native kernels here", allow_module_level=True)


class Limits(NamedTuple):
    """What of a row is kept; `truncate` says how."""

    top_k: int = 1 << 20
    top_p: float = 1.0
    min_p: float = 0.0


LIMITS = [
    Limits(),
    Limits(top_k=1),
    Limits(top_k=7),
    Limits(top_p=0.9),
    Limits(min_p=0.2),
    Limits(top_p=1e-9),
    Limits(min_p=1.0),
    Limits(top_k=3, top_p=0.99, min_p=0.01),
]


def check(logits: Tensor, temperature: float = 1.0, limits: Limits | None = None, *, num_threads: int = 2) -> None:
    """Both draw the same from each row, with as many numbers as there are rows, 0 and almost 1 among them.

    But in large vocabularies the last 2^-40 of a sum is less than its rounding, and in steep rows the first weight that
    is not 0 depends on how small a float32 may be.
    """
    native, (num_rows, vocab_size) = cpu.CpuSampling(num_threads), logits.shape
    uniform = torch.rand(num_rows, dtype=torch.float64)
    if vocab_size < 4000 and logits.max() - logits.nan_to_num(neginf=0).min() < 80 * temperature:
        uniform[0], uniform[-1] = 0.0, 1 - 2**-40
    given = [logits, torch.full((num_rows,), temperature), uniform]
    if limits is None:
        assert native.draw(*given).tolist() == reference.draw(*given).tolist()
        return
    options = {
        "top_k": torch.full((num_rows,), min(limits.top_k, vocab_size)),
        "top_p": torch.full((num_rows,), limits.top_p),
        "min_p": torch.full((num_rows,), limits.min_p),
    }
    assert native.draw_truncated(*given, **options).tolist() == reference.draw_truncated(*given, **options).tolist()


@pytest.mark.parametrize("vocab_size", [1, 15, 200, 3001, 49152])
@pytest.mark.parametrize("limits", [None, *LIMITS])
def test_random_rows(limits: Limits | None, vocab_size: int) -> None:
    torch.manual_seed(0)
    check(4 * torch.randn(9, vocab_size), 0.7, limits)


@pytest.mark.parametrize("spread", [0.001, 0.3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("limits", [None, *LIMITS, Limits(top_k=2000), Limits(top_p=0.999)])
def test_flat_and_steep_rows(limits: Limits | None, spread: float) -> None:
    """All tokens in a bucket or two, and most of them beyond the last."""
    torch.manual_seed(1)
    check(spread * torch.randn(5, 5000), 1.0, limits)


@pytest.mark.parametrize("limits", [None, *LIMITS, Limits(top_k=2, top_p=0.3)])
def test_ties_go_by_id(limits: Limits | None) -> None:
    """Few distinct numbers, so that every threshold lies on many tokens; both zeros are one."""
    torch.manual_seed(2)
    logits = torch.randint(-2, 3, (3, 4000)).float()
    check(torch.where(torch.rand(3, 4000) < 0.5, logits, -logits), 1.0, limits)
    check(torch.zeros(2, 32), 1.0, limits)


@pytest.mark.parametrize("limits", [None, Limits(), Limits(top_k=10), Limits(top_p=0.9), Limits(top_k=500)])
def test_tokens_that_are_ruled_out_are_never_drawn(limits: Limits | None) -> None:
    torch.manual_seed(3)
    logits = torch.randn(3, 1000)
    logits[:, 3:] = -torch.inf
    check(logits, 1.0, limits)
    logits[:, 1:] = -torch.inf
    check(logits.flip(1).contiguous(), 1.0, limits)


def test_a_draw_on_the_border_takes_the_next_token() -> None:
    """Quarters, exactly reached."""
    logits, uniform, ones = torch.zeros(4, 4), torch.arange(4, dtype=torch.float64) / 4, torch.ones(4)
    native, limits = cpu.CpuSampling(1), {"top_k": torch.full((4,), 4), "top_p": ones, "min_p": 0 * ones}
    assert native.draw(logits, ones, uniform).tolist() == [0, 1, 2, 3]
    assert native.draw_truncated(logits, ones, uniform, **limits).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_each_row_has_its_own_limits_whoever_draws_it(num_threads: int) -> None:
    torch.manual_seed(4)
    logits, native = 3 * torch.randn(32, 999), cpu.CpuSampling(num_threads)
    given = [logits, torch.rand(32) + 0.5, torch.rand(32, dtype=torch.float64)]
    options = {"top_k": torch.randint(1, 999, (32,)), "top_p": torch.rand(32), "min_p": torch.rand(32) / 10}
    assert torch.equal(native.draw_truncated(*given, **options), reference.draw_truncated(*given, **options))


def test_of_equally_probable_tokens_the_first() -> None:
    native = cpu.CpuSampling(2)
    logits = torch.randint(0, 5, (7, 333)).float()
    assert native.most_probable(logits).tolist() == [row.index(max(row)) for row in logits.tolist()]
    assert native.most_probable(torch.full((1, 5), -torch.inf)).tolist() == [0]


def test_rows_without_a_number_give_some_token() -> None:
    """The model's fault, not a crash."""
    native, ones, uniform = cpu.CpuSampling(1), torch.ones(2), torch.full((2,), 0.5, dtype=torch.float64)
    limits = {"top_k": torch.full((2,), 3), "top_p": 0.5 * ones, "min_p": 0.1 * ones}
    for row in (torch.nan, torch.inf, -torch.inf):
        logits = torch.full((2, 50), row)
        drawn = [native.draw(logits, ones, uniform), native.draw_truncated(logits, ones, uniform, **limits)]
        for tokens in (*drawn, native.most_probable(logits)):
            assert ((tokens >= 0) & (tokens < 50)).all()


def test_what_does_not_fit_is_refused() -> None:
    native, logits, ones, uniform = cpu.CpuSampling(1), torch.zeros(2, 5), torch.ones(2), torch.zeros(2).double()
    for name, call in (
        ("logits", lambda: native.most_probable(logits.double())),
        ("logits", lambda: native.draw(logits.t(), ones, uniform)),
        ("temperature", lambda: native.draw(logits, ones[:1], uniform)),
        ("uniform", lambda: native.draw(logits, ones, uniform.float())),
        ("top_k", lambda: native.draw_truncated(logits, ones, uniform, top_k=ones, top_p=ones, min_p=ones)),
    ):
        with pytest.raises(ValueError, match=name):
            call()
