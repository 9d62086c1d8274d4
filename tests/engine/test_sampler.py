"""Sampling: distributions, truncation, penalties, seeds."""

from typing import Any

import pytest
import torch

from engine import sampler
from engine.request import Request
from engine.sampling_tensors import Pending, SamplingTensors, build_sampling
from tests.engine.tiny_models import make_request

EOS = [0]


def request(output: list[int] | None = None, prompt: list[int] | None = None, **params: Any) -> Request:
    made = make_request("r", prompt or [1], **{"temperature": 1.0, "seed": 1, "max_tokens": 64, **params})
    made.output_token_ids = output or []
    return made


def wanted(logits: torch.Tensor, requests: list[Request], pending: dict[str, int] | None = None) -> SamplingTensors:
    """`pending`: request_id -> its newest token, which only the device knows."""
    token_ids = torch.tensor(list((pending or {}).values()), dtype=torch.int64)
    rows = {request_id: row for row, request_id in enumerate(pending or {})}
    return build_sampling(requests, range(len(requests)), EOS, logits.shape[-1], Pending(rows, token_ids))


def sample(logits: torch.Tensor, requests: list[Request]) -> torch.Tensor:
    return sampler.sample(logits, wanted(logits, requests))


def adjust(logits: torch.Tensor, requests: list[Request]) -> None:
    sampler.adjust_logits(logits, wanted(logits, requests))


def draw_many(logits: torch.Tensor, num_draws: int, **params: Any) -> torch.Tensor:
    """Counts of each token over draws with different seeds."""
    requests = [request(**{**params, "seed": seed}) for seed in range(num_draws)]
    token_ids = sample(logits.repeat(num_draws, 1), requests)
    return torch.bincount(token_ids, minlength=logits.shape[-1])


def test_greedy_takes_the_most_probable() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    assert sample(logits, [request(temperature=0.0)] * 2).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    logits = torch.tensor([1.0, 2.0, 0.0, -1.0, 0.5])
    counts = draw_many(logits, 20_000, temperature=temperature)
    expected = (logits / temperature).softmax(-1) * 20_000
    # Chi-squared with 4 degrees of freedom: 27.9 is passed once in 100,000 runs, and the seeds are fixed.
    assert float(((counts - expected) ** 2 / expected).sum()) < 27.9


def test_truncated_draws_follow_the_renormalised_distribution() -> None:
    logits = torch.tensor([1.0, 2.0, 0.0, -1.0, 0.5])
    counts = draw_many(logits, 20_000, top_k=3)
    expected = logits.masked_fill(torch.tensor([False, False, True, True, False]), -torch.inf).softmax(-1) * 20_000
    assert counts[[2, 3]].sum() == 0
    kept = expected > 0
    assert float(((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum()) < 23.0


@pytest.mark.parametrize(
    ("params", "allowed"),
    [
        ({"top_k": 1}, {1}),
        ({"top_k": 2}, {1, 0}),
        ({"top_k": 100}, {0, 1, 2, 3, 4}),
        ({"top_k": -1, "top_p": 0.99999}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.01}, {1}),
        ({"top_p": 0.75}, {1, 0}),
        ({"min_p": 1.0}, {1}),
        ({"min_p": 0.3}, {1, 0}),
        ({"top_k": 3, "top_p": 0.5}, {1}),
    ],
)
def test_truncation_keeps_exactly_these(params: dict[str, Any], allowed: set[int]) -> None:
    # Probabilities: token 1: 0.577, 0: 0.212, 4: 0.129, 2: 0.078, 3: 0.029 (about)
    counts = draw_many(torch.tensor([1.0, 2.0, 0.0, -1.0, 0.5]), 5_000, **params)
    assert set(counts.nonzero().flatten().tolist()) == allowed


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 50, generator=generator)
    requests = [request(seed=5), request(seed=5, top_k=7), request(temperature=0.0), request(seed=9, min_p=0.1)]
    together = sample(logits.clone(), requests)
    alone = [sample(logits[i : i + 1].clone(), [requests[i]]) for i in range(4)]
    assert together.tolist() == torch.cat(alone).tolist()


def test_the_draw_depends_on_the_output_position() -> None:
    logits = torch.zeros(1, 1000)
    drawn = {int(sample(logits.clone(), [request(output=[3] * position)])) for position in range(20)}
    assert len(drawn) > 15


def test_penalties_equal_the_formulas() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 1.0, 3.0, -2.0]])
    made = request(
        prompt=[0, 1], output=[2, 2, 5], repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.5
    )
    adjust(logits, [made])
    expected = [1.0, -2.0, 0.25 - 0.25 - 2 * 0.5, 1.0, 3.0, -4.0 - 0.25 - 0.5]
    assert logits[0].tolist() == pytest.approx(expected)


def test_logit_bias_adds_to_single_tokens() -> None:
    logits = torch.zeros(2, 4)
    adjust(logits, [request(logit_bias={2: 5.0, 3: -100.0}), request()])
    assert logits.tolist() == [[0, 0, 5, -100], [0, 0, 0, 0]]


def test_min_tokens_masks_every_way_to_stop() -> None:
    logits = torch.zeros(2, 4)
    short = request(output=[3], min_tokens=2, stop_token_ids=(2,))
    enough = request(output=[3, 3], min_tokens=2, stop_token_ids=(2,))
    adjust(logits, [short, enough])
    assert logits[0].tolist() == [-torch.inf, 0, -torch.inf, 0]
    assert logits[1].tolist() == [0, 0, 0, 0]


def test_logprobs_list_what_each_row_asks_for() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    first, second = sampler.compute_logprobs(logits, torch.tensor([0, 2]), 2).to_list([2, 0])
    expected = logits[0].log_softmax(-1)
    assert first.logprob == pytest.approx(float(expected[0]))
    assert first.top_token_ids == [2, 1]
    assert first.top_logprobs == pytest.approx([float(expected[2]), float(expected[1])])
    assert (second.token_id, second.top_token_ids) == (2, [])


def test_a_pending_token_counts_as_if_it_were_known() -> None:
    params = {"repetition_penalty": 2.0, "presence_penalty": 0.25, "frequency_penalty": 0.5, "min_tokens": 2}
    known, unread = request(output=[2, 5], **params), request(output=[2], **params)
    unread.num_pending_tokens = 1
    logits = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
    expected, found = logits.clone(), logits.clone()
    adjust(expected, [known])
    sampler.adjust_logits(found, wanted(logits, [unread], pending={"other": 3, "r": 5}))
    assert found.tolist() == expected.tolist()
    one, other = (sampler.sample(logits.clone(), wanted(logits, [r], pending={"r": 5})) for r in (known, unread))
    assert one.tolist() == other.tolist()


def test_rows_that_ask_for_nothing_stay_as_they_are() -> None:
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    adjusted = logits.clone()
    adjust(adjusted, [request(), request(logit_bias={1: 2.0}, frequency_penalty=1.0, output=[4]), request()])
    assert adjusted[[0, 2]].equal(logits[[0, 2]])
    assert (adjusted[1] != logits[1]).nonzero().flatten().tolist() == [1, 4]
