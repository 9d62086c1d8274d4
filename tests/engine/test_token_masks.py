"""Masks against a plain loop over rows and tokens; bad words across steps; what is left when little is."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import sampler
from engine.admission import check_request
from engine.errors import RequestRefusedError
from engine.kernels.sampling import apply_token_mask
from engine.request import Request, SamplingParams
from engine.sampling_tensors import Pending, build_sampling
from engine.token_masks import BAN
from tests.engine.tiny_models import make_request
from tests.server.stand_ins import make_info

EOS = [0]
VOCAB_SIZE = 70
"""More than one word of bits, and no whole number of them."""


def request(output: list[int], *, num_pending: int = 0, **params: Any) -> Request:
    made = make_request("r", [1], **{"temperature": 0.0, "max_tokens": 64, **params})
    made.output_token_ids, made.num_pending_tokens = output, num_pending
    return made


def adjusted(requests: list[Request], pending: list[int] | None = None) -> torch.Tensor:
    """Zero logits, adjusted; every request's pending token is among `pending`, at the place of the request."""
    logits = torch.zeros(len(requests), VOCAB_SIZE)
    for place, made in enumerate(requests):
        made.request_id = f"r{place}"
    rows = {made.request_id: place for place, made in enumerate(requests)} if pending else {}
    waiting = Pending(rows, torch.tensor(pending or [], dtype=torch.int64))
    sampler.adjust_logits(logits, build_sampling(requests, range(len(requests)), EOS, VOCAB_SIZE, waiting))
    return logits


def expected(output: list[int], params: SamplingParams) -> list[float]:
    """What each logit of 0 becomes, token by token."""
    stops = {*EOS, *params.stop_token_ids}
    logits = []
    for token_id in range(VOCAB_SIZE):
        banned = sum((*output, token_id)[-len(word) :] == word for word in params.bad_words_token_ids)
        is_early = len(output) < params.min_tokens and token_id in stops
        is_allowed = not params.allowed_token_ids or token_id in params.allowed_token_ids
        logits.append(-banned * BAN if is_allowed and not is_early else -math.inf)
    return logits


tokens = st.integers(0, 4)
words = st.lists(st.lists(tokens, min_size=1, max_size=3).map(tuple), max_size=4).map(tuple)
rows = st.tuples(
    st.lists(tokens, max_size=4),
    words,
    st.just(()) | st.sets(st.integers(5, VOCAB_SIZE - 1) | tokens, min_size=6).map(tuple),
    st.integers(0, 5),
    st.lists(tokens, max_size=2).map(tuple),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(rows, min_size=1, max_size=4))
def test_masks_equal_a_loop_whether_the_newest_token_is_known_or_pending(drawn: list[Any]) -> None:
    names = ("bad_words_token_ids", "allowed_token_ids", "min_tokens", "stop_token_ids")
    params = [dict(zip(names, row[1:], strict=True)) for row in drawn]
    wanted = [expected(row[0], SamplingParams(max_tokens=64, **p)) for row, p in zip(drawn, params, strict=True)]
    known = [request(row[0], **p) for row, p in zip(drawn, params, strict=True)]
    assert adjusted(known).tolist() == wanted
    unread = [request(row[0][:-1], num_pending=len(row[0][-1:]), **p) for row, p in zip(drawn, params, strict=True)]
    assert adjusted(unread, [row[0][-1] if row[0] else 0 for row in drawn]).tolist() == wanted


def test_a_token_mask_leaves_other_rows_alone() -> None:
    logits = torch.arange(3.0).repeat(VOCAB_SIZE, 1).T.contiguous()
    mask = torch.zeros(1, 2, dtype=torch.int64)
    mask[0, 0], mask[0, 1] = -(2**63), 0b100001  # tokens 63, 64 and 69
    apply_token_mask(logits, torch.tensor([1]), mask)
    assert logits[[0, 2]].tolist() == [[0.0] * VOCAB_SIZE, [2.0] * VOCAB_SIZE]
    assert logits[1].isfinite().nonzero().flatten().tolist() == [63, 64, 69]


def test_where_only_bad_words_are_left_an_allowed_token_comes_out() -> None:
    made = request([7], allowed_token_ids=(3, 4), bad_words_token_ids=((7, 3), (7, 4), (4,)))
    logits = adjusted([made])
    for temperature in (0.0, 1.0):
        made.sampling_params = SamplingParams(temperature=temperature, seed=1, max_tokens=64)
        drawn = sampler.sample(
            logits.clone(), build_sampling([made], [0], EOS, VOCAB_SIZE, Pending({}, torch.tensor([])))
        )
        assert drawn.tolist() == [3], "the one that is banned once"


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"allowed_token_ids": tuple(range(1025))}, "allowed_token_ids"),
        ({"allowed_token_ids": (1, 2), "bad_words_token_ids": ((1,), (2,))}, "allowed_token_ids"),
        ({"bad_words_token_ids": ((),)}, "bad_words_token_ids"),
        ({"bad_words_token_ids": ((1,) * 513,)}, "bad_words_token_ids"),
        ({"bad_words_token_ids": ((1,),) * 257}, "bad_words_token_ids"),
    ],
)
def test_what_cannot_be_is_refused(params: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} "):
        SamplingParams(**params)


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"allowed_token_ids": (101,)}, "allowed_token_ids"),
        ({"allowed_token_ids": (-1,)}, "allowed_token_ids"),
        ({"bad_words_token_ids": ((3, 101),)}, "bad_words"),
        ({"allowed_token_ids": (2, 5), "stop_token_ids": (5,), "min_tokens": 1}, "allowed_token_ids"),
    ],
)
def test_what_the_model_cannot_do_is_refused(params: dict[str, Any], param: str) -> None:
    info = make_info(max_model_len=200)
    with pytest.raises(RequestRefusedError) as refused:
        check_request(make_request("r", [1], **params), info)
    assert refused.value.param == param
