"""What the rows of a step ask of the sampler: lists to tensors, all in one copy, so that sampling waits for no value.

A row's newest token may be pending (engine/batch.py): draws need only its position, penalties take it on the device. What
no row asks for costs a step nothing: most rows ask for little.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.kernels import sampling
from engine.request import Request, SamplingParams
from engine.token_masks import MaskArrays, TokenMasks, is_masked
from engine.transfers import Array, to_device


class Draws(NamedTuple):
    """Rows that are drawn at random; all but the first float64 [num_rows].

    Attributes:
        rows: [num_rows] int64, among the step's.
        uniform: the random numbers, in [0, 1).
        temperature: more than 0.
        top_p: see SamplingParams.
        min_p: see SamplingParams.
        top_k: [num_rows] int64; the vocabulary's size where there is no limit.
    """

    rows: Tensor
    uniform: Tensor
    temperature: Tensor
    top_p: Tensor
    min_p: Tensor
    top_k: Tensor


class PenalizedRow(NamedTuple):
    """A row whose seen tokens are penalised.

    Attributes:
        row: among the step's.
        params: how.
        prompt_token_ids: [num_prompt_tokens] int64.
        output_token_ids: [num_output_tokens] int64.
    """

    row: int
    params: SamplingParams
    prompt_token_ids: Tensor
    output_token_ids: Tensor


class SamplingTensors(NamedTuple):
    """One step's sampling on the device.

    Attributes:
        hidden_rows: [num_rows] int64, where among the step's tokens each row's newest one is; empty where that is not asked.
        plain: rows drawn from the whole distribution.
        truncated: rows drawn from a part of it.
        penalized: rows with penalties.
        biased: rows and token ids, [num_biases] int64 each, and what to add to their logits, float64.
        masks: tokens that must not come out.
        pending_token_ids: [num_pending] int64, what the step before sampled.
        logprob_rows: [num_logprob_rows] int64, rows whose log-probabilities are asked for.
    """

    hidden_rows: Tensor
    plain: Draws
    truncated: Draws
    penalized: Sequence[PenalizedRow]
    biased: tuple[Tensor, Tensor, Tensor]
    masks: TokenMasks
    pending_token_ids: Tensor
    logprob_rows: Tensor


class Pending(NamedTuple):
    """What the step before sampled and nobody has read.

    Attributes:
        rows: request_id -> row.
        token_ids: [num_rows] int64, on the device.
    """

    rows: Mapping[str, int]
    token_ids: Tensor


def nothing_pending(device: torch.device) -> Pending:
    """Before the first step."""
    return Pending({}, torch.empty(0, dtype=torch.int64, device=device))


def build_sampling(
    requests: Sequence[Request],
    hidden_rows: Sequence[int],
    eos_token_ids: Sequence[int],
    vocab_size: int,
    pending: Pending,
    *,
    fitting: Mapping[str, Array] = MappingProxyType({}),
) -> SamplingTensors:
    """Tensors of a step's rows, where `pending` is.

    Args:
        requests: one a row, as they are before the token.
        hidden_rows: see SamplingTensors.
        eos_token_ids: the model's own end-of-sequence tokens (masked by min_tokens).
        vocab_size: columns of the logits.
        pending: holds the newest token of every request that has one pending.
        fitting: see MaskArrays.
    """
    device = pending.token_ids.device
    parts = [
        *_rows("hidden_rows", hidden_rows),
        *_rows("logprob_rows", [row for row, request in enumerate(requests) if _wants_logprobs(request)]),
        *_draws(requests, vocab_size),
        *_biased(requests),
        *_masks(requests, eos_token_ids, vocab_size, pending, fitting),
        *_penalized(requests, pending),
    ]
    tensors = iter(to_device([array for part in parts for array in part.arrays], device))
    found = {part.field: part.on_device([next(tensors) for _ in part.arrays]) for part in parts}
    return _nothing(vocab_size, device)._replace(pending_token_ids=pending.token_ids, **found)


class _Part(NamedTuple):
    """What some rows ask for.

    Attributes:
        field: of SamplingTensors.
        arrays: that go to the device.
        on_device: what the field becomes, of their tensors.
    """

    field: str
    arrays: list[Array]
    on_device: Callable[[list[Tensor]], Any]


@functools.cache
def _nothing(vocab_size: int, device: torch.device) -> SamplingTensors:
    """What a step is sampled with of which no row asks for anything."""
    ints, floats = torch.empty(0, dtype=torch.int64, device=device), torch.empty(0, dtype=torch.float64, device=device)
    draws = Draws(ints, floats, floats, floats, floats, ints)
    masks = MaskArrays([], [], vocab_size, {}, {})
    return SamplingTensors(
        hidden_rows=ints,
        plain=draws,
        truncated=draws,
        penalized=(),
        biased=(ints, ints, floats),
        masks=masks.on_device(to_device(masks.arrays, device)),
        pending_token_ids=ints,
        logprob_rows=ints,
    )


class _History:
    """The tokens of some requests, prompt and output, one request after the other."""

    def __init__(self, requests: Sequence[Request], pending: Pending) -> None:
        self._pending = pending
        self._lengths = [(request.num_prompt_tokens, request.num_output_tokens) for request in requests]
        ends = np.cumsum([sum(lengths) for lengths in self._lengths], dtype=np.int64)
        unread = [i for i, request in enumerate(requests) if request.num_pending_tokens]
        token_ids = [
            token_id
            for request in requests
            for token_id in (*request.prompt_token_ids, *request.output_token_ids, *[0] * request.num_pending_tokens)
        ]
        pending_rows = _ints(pending.rows[requests[i].request_id] for i in unread)
        self.arrays: list[Array] = [_ints(token_ids), ends[unread] - 1, pending_rows]

    def split(self, tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Prompt and output of each request, pending tokens included."""
        token_ids, places, pending_rows = tensors
        if places.numel():
            token_ids[places] = self._pending.token_ids[pending_rows]
        parts = iter(token_ids.split([length for lengths in self._lengths for length in lengths]))
        return [(next(parts), next(parts)) for _ in self._lengths]


def _penalized(requests: Sequence[Request], pending: Pending) -> list[_Part]:
    rows = [(row, request) for row, request in enumerate(requests) if _has_penalty(request.sampling_params)]
    if not rows:
        return []
    history = _History([request for _, request in rows], pending)

    def on_device(tensors: list[Tensor]) -> list[PenalizedRow]:
        return [
            PenalizedRow(row, request.sampling_params, *token_ids)
            for (row, request), token_ids in zip(rows, history.split(tensors), strict=True)
        ]

    return [_Part("penalized", history.arrays, on_device)]


def _draws(requests: Sequence[Request], vocab_size: int) -> list[_Part]:
    """Whether a row is truncated depends on the row alone, never on its neighbours."""
    fields: dict[str, list[tuple[int, Request]]] = {"plain": [], "truncated": []}
    for row, request in enumerate(requests):
        if request.sampling_params.temperature > 0:
            fields["truncated" if _truncates(request.sampling_params) else "plain"].append((row, request))
    return [
        _Part(field, _draw_arrays(rows, vocab_size), lambda tensors: Draws(*tensors))
        for field, rows in fields.items()
        if rows
    ]


def _draw_arrays(rows: list[tuple[int, Request]], vocab_size: int) -> list[Array]:
    """Fields of Draws."""
    params = [request.sampling_params for _, request in rows]
    return [
        _ints(row for row, _ in rows),
        _floats(sampling.uniform(r.sampling_params.seed or 0, r.num_output_tokens) for _, r in rows),
        _floats(each.temperature for each in params),
        _floats(each.top_p for each in params),
        _floats(each.min_p for each in params),
        _ints(each.top_k if each.top_k > 0 else vocab_size for each in params),
    ]


def _biased(requests: Sequence[Request]) -> list[_Part]:
    found = [
        (row, token_id, bias)
        for row, request in enumerate(requests)
        for token_id, bias in request.sampling_params.logit_bias.items()
    ]
    rows, token_ids = _ints(row for row, _, _ in found), _ints(token_id for _, token_id, _ in found)
    return [_Part("biased", [rows, token_ids, _floats(bias for _, _, bias in found)], tuple)] if found else []


def _masks(
    requests: Sequence[Request],
    eos_token_ids: Sequence[int],
    vocab_size: int,
    pending: Pending,
    fitting: Mapping[str, Array],
) -> list[_Part]:
    if not any(is_masked(request, fitting) for request in requests):
        return []
    masks = MaskArrays(requests, eos_token_ids, vocab_size, pending.rows, fitting)
    return [_Part("masks", masks.arrays, masks.on_device)]


def _rows(field: str, rows: Sequence[int]) -> list[_Part]:
    return [_Part(field, [_ints(rows)], _only)] if rows else []


def _only(tensors: list[Tensor]) -> Tensor:
    return tensors[0]


def _ints(numbers: Iterable[int]) -> Array:
    return np.fromiter(numbers, dtype=np.int64)


def _floats(numbers: Iterable[float]) -> Array:
    return np.fromiter(numbers, dtype=np.float64)


def _truncates(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1 or params.min_p > 0


def _has_penalty(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0


def _wants_logprobs(request: Request) -> bool:
    return request.sampling_params.logprobs is not None
