"""Figures of attention weights whose answers are known."""

import math

import pytest
import torch
from torch import Tensor

from heads import patterns

LENGTH = 8


def one_place(offset: int) -> Tensor:
    """[LENGTH, LENGTH]: every token looks `offset` tokens back, or as far as it can."""
    places = (torch.arange(LENGTH) - offset).clamp(min=0)
    return torch.nn.functional.one_hot(places, LENGTH).float()


def uniform() -> Tensor:
    """Every token looks at itself and all before it alike."""
    seen = torch.ones(LENGTH, LENGTH).tril()
    return seen / seen.sum(1, keepdim=True)


WEIGHTS = torch.stack([one_place(1), one_place(LENGTH), uniform(), one_place(LENGTH // 2 - 1)])
"""The token before, the first token, everything, and (of a text of half the length, twice) what came after."""


def test_each_head_scores_1_in_what_it_does() -> None:
    assert patterns.previous_token(WEIGHTS)[0] == 1
    assert patterns.first_token(WEIGHTS)[1] == 1
    assert patterns.induction(WEIGHTS)[3] == 1
    assert patterns.induction(WEIGHTS)[0] == 0
    assert patterns.previous_token(WEIGHTS)[3] < 0.5


def test_entropy_is_that_of_the_number_of_places() -> None:
    expected = sum(math.log(n) for n in range(2, LENGTH + 1)) / (LENGTH - 1)
    torch.testing.assert_close(patterns.entropy(WEIGHTS), torch.tensor([0.0, 0.0, expected, 0.0]))


def test_shares_are_counted_where_they_go() -> None:
    is_counted = torch.arange(LENGTH) == 0
    torch.testing.assert_close(patterns.share_of(WEIGHTS, is_counted), patterns.first_token(WEIGHTS))
    assert patterns.share_of(WEIGHTS, torch.ones(LENGTH, dtype=torch.bool)).tolist() == pytest.approx([1] * 4)


def test_copies_are_at_distance_0_and_strangers_at_1() -> None:
    heads = torch.stack([one_place(1), one_place(1), one_place(0)])
    torch.testing.assert_close(patterns.js_divergence(heads), torch.tensor([[0.0, 0, 1], [0, 0, 1], [1, 1, 0]]))
    torch.testing.assert_close(patterns.cosine_similarity(heads), torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]))


def test_divergence_is_symmetric_and_counts_what_a_sink_takes() -> None:
    heads = torch.stack([uniform(), 0.5 * uniform()])
    found = patterns.js_divergence(heads)
    assert found.equal(found.T)
    # Half of the second head's attention goes where none of the first's does.
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    middle = (p + q) / 2
    expected = (torch.special.entr(middle).sum() - torch.special.entr(q).sum() / 2) / math.log(2)
    torch.testing.assert_close(found[0, 1], expected)
