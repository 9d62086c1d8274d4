"""Triton's draws against the reference: the same tokens, ties and edges included."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from engine.kernels import sampling as reference
from engine.token_masks import BAN
from tests.engine.kernels import triton_setup
from tests.engine.kernels.triton_setup import DEVICE

triton_setup.import_kernels()

from engine.kernels.triton import sampling  # noqa: E402  only where Triton is


class Limits(NamedTuple):
    """What of a row is kept; `truncate` says how."""

    top_k: int = 1 << 20
    top_p: float = 1.0
    min_p: float = 0.0


LIMITS = [
    Limits(),
    Limits(top_k=7),
    Limits(top_p=0.9),
    Limits(min_p=0.2),
    Limits(top_k=3, top_p=0.99, min_p=0.01),
]


def check(logits: Tensor, temperature: float = 1.0, limits: Limits | None = None) -> None:
    """Both draw the same from each row, with as many numbers as there are rows, 0 and almost 1 among them."""
    num_rows = len(logits)
    uniform = torch.rand(num_rows, dtype=torch.float64)
    uniform[0], uniform[-1] = 0.0, 1 - 2**-40
    same = [torch.full((num_rows,), temperature), uniform]
    kinds = [torch.int64, torch.float32, torch.float32]
    truncated = {
        name: torch.full((num_rows,), value, dtype=dtype)
        for (name, value), dtype in zip((limits or Limits())._asdict().items(), kinds, strict=True)
    }
    truncated["top_k"] = truncated["top_k"].clamp(max=logits.shape[1])
    name, options = ("draw", {}) if limits is None else ("draw_truncated", truncated)
    expected = getattr(reference, name)(logits, *same, **options)
    on_device = {key: value.to(DEVICE) for key, value in options.items()}
    out = getattr(sampling, name)(logits.to(DEVICE), *(x.to(DEVICE) for x in same), **on_device)
    assert out.tolist() == expected.tolist()


@pytest.mark.parametrize("vocab_size", [1, 200])
@pytest.mark.parametrize("limits", [None, *LIMITS])
def test_random_rows(limits: Limits | None, vocab_size: int) -> None:
    torch.manual_seed(0)
    check(4 * torch.randn(3, vocab_size), 0.7, limits)


@pytest.mark.parametrize("limits", [None, *LIMITS])
def test_several_blocks_of_a_row(limits: Limits | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MAX_BLOCK", 64)
    torch.manual_seed(1)
    check(3 * torch.randn(2, 300), 1.0, limits)


@pytest.mark.parametrize("limits", [None, *LIMITS, Limits(top_p=1e-9), Limits(min_p=1.0), Limits(top_k=2, top_p=0.3)])
def test_ties_go_by_id(limits: Limits | None) -> None:
    """Few distinct numbers, so that every threshold lies on many tokens; both zeros are one."""
    torch.manual_seed(2)
    logits = torch.randint(-2, 3, (3, 40)).float()
    check(torch.where(torch.rand(3, 40) < 0.5, logits, -logits), 1.0, limits)
    check(torch.zeros(2, 32), 1.0, limits)


@pytest.mark.parametrize("limits", [None, Limits(), Limits(top_k=10), Limits(top_p=0.9)])
def test_tokens_that_are_ruled_out_are_never_drawn(limits: Limits | None) -> None:
    torch.manual_seed(3)
    logits = torch.randn(3, 30)
    logits[:, 3:] = -torch.inf
    check(logits, 1.0, limits)
    logits[:, 1:] = -torch.inf
    check(logits.flip(1), 1.0, limits)


@pytest.mark.parametrize("limits", [None, Limits(), Limits(top_k=10), Limits(top_p=0.9)])
def test_bad_words_are_drawn_only_where_nothing_else_is_left(limits: Limits | None) -> None:
    torch.manual_seed(4)
    logits = torch.randn(3, 30)
    logits[:, 5:] = -torch.inf
    logits[:, 3:5] -= BAN
    check(logits, 1.0, limits)
    logits[:, :3] = -torch.inf
    check(logits, 0.7, limits)


def test_a_draw_on_the_border_takes_the_next_token() -> None:
    """Quarters, exactly reached."""
    logits, uniform = torch.zeros(4, 4), torch.arange(4, dtype=torch.float64) / 4
    ones, all_of_them = torch.ones(4), torch.full((4,), 4)
    limits = {"top_k": all_of_them, "top_p": ones, "min_p": 0 * ones}
    for name, options in (("draw", {}), ("draw_truncated", limits)):
        on_device = {key: value.to(DEVICE) for key, value in options.items()}
        given = [x.to(DEVICE) for x in (logits, ones, uniform)]
        assert getattr(sampling, name)(*given, **on_device).tolist() == [0, 1, 2, 3]


def test_no_rows() -> None:
    none = torch.zeros(0, device=DEVICE)
    assert sampling.draw(torch.zeros(0, 5, device=DEVICE), none, none.double()).shape == (0,)


def test_what_does_not_fit_is_refused() -> None:
    logits, ones, uniform = torch.zeros(2, 5), torch.ones(2), torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="logits"):
        sampling.draw(logits.double(), ones, uniform)
    with pytest.raises(ValueError, match="uniform"):
        sampling.draw(logits, ones, uniform.float())
    with pytest.raises(ValueError, match="top_k"):
        sampling.draw_truncated(logits, ones, uniform, top_k=ones, top_p=ones, min_p=ones)
