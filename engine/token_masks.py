"""Tokens that must not come out: what requests ask for becomes arrays, for the whole step at once.

Three kinds of masks, so that each costs what it must: single tokens of a row; all tokens of a row but some, as one bit a
token; and single tokens that depend on the newest one, which may be pending (engine/batch.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.kernels import sampling
from engine.request import Request
from engine.transfers import Array

MASK_WORD_BITS = 64
BAN = 1e9
"""Taken from the logit of a token that would complete a bad word. Finite: where a request leaves nothing but such tokens,
one of them comes out, and none of those that are ruled out altogether."""


class TokenMasks(NamedTuple):
    """What must not come out of a step's rows.

    Attributes:
        masked: rows and token ids, [num_masked] int64 each: never.
        limited_rows: [num_limited] int64, rows that may give some tokens only.
        token_mask: [num_limited, ceil(vocab_size / 64)] int64, those tokens of each; see `sampling.apply_token_mask`.
        banned: rows and token ids, [num_banned] int64 each: only where nothing else may.
        follow_ups: rows, token ids, rows of the pending tokens and ids, [num_follow_ups] int64 each: the second is banned
            where the pending token is the fourth.
    """

    masked: tuple[Tensor, Tensor]
    limited_rows: Tensor
    token_mask: Tensor
    banned: tuple[Tensor, Tensor]
    follow_ups: tuple[Tensor, Tensor, Tensor, Tensor]


class MaskArrays:
    """The arrays of a step's TokenMasks.

    Args:
        requests: one a row, as they are before the token.
        eos_token_ids: the model's own end-of-sequence tokens (masked by min_tokens).
        vocab_size: columns of the logits.
        pending_rows: request_id -> where its pending token lies.
        fitting: request_id -> tokens that fit its grammar, [ceil(vocab_size / 64)] int64, a bit each.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        eos_token_ids: Sequence[int],
        vocab_size: int,
        pending_rows: Mapping[str, int],
        fitting: Mapping[str, Array],
    ) -> None:
        masks = [(row, _token_mask(request, vocab_size, fitting)) for row, request in enumerate(requests)]
        limited = [(row, mask) for row, mask in masks if mask is not None]
        banned, follow_ups = _bad_words(requests, pending_rows)
        self.arrays: list[Array] = [
            *_columns(_early_stops(requests, eos_token_ids), 2),
            np.array([row for row, _ in limited], dtype=np.int64),
            np.array([mask for _, mask in limited], dtype=np.int64).reshape(
                len(limited), -(-vocab_size // MASK_WORD_BITS)
            ),
            *_columns(banned, 2),
            *_columns(follow_ups, 4),
        ]

    def on_device(self, tensors: Sequence[Tensor]) -> TokenMasks:
        """The masks, of the arrays' tensors."""
        masked, limited, token_mask, banned, follow_ups = tensors[:2], tensors[2], tensors[3], tensors[4:6], tensors[6:]
        return TokenMasks(
            (masked[0], masked[1]),
            limited,
            token_mask,
            (banned[0], banned[1]),
            (follow_ups[0], follow_ups[1], follow_ups[2], follow_ups[3]),
        )


def is_masked(request: Request, fitting: Mapping[str, Array]) -> bool:
    """Whether a request's row may have any of the masks: without one, MaskArrays has nothing for it."""
    params = request.sampling_params
    is_short = request.num_output_tokens < params.min_tokens
    return is_short or bool(params.allowed_token_ids or params.bad_words_token_ids) or request.request_id in fitting


def apply_masks(logits: Tensor, masks: TokenMasks, pending_token_ids: Tensor) -> None:
    """Rule tokens out, in place; rows without a mask cost nothing.

    Args:
        logits: [num_rows, vocab_size].
        masks: by the rows.
        pending_token_ids: [num_pending] int64, what the step before sampled.
    """
    rows, token_ids = masks.banned
    if rows.numel():
        logits.index_put_((rows, token_ids), logits.new_full((), -BAN), accumulate=True)
    rows, token_ids, pending_rows, previous = masks.follow_ups
    if rows.numel():
        bans = torch.where(pending_token_ids[pending_rows] == previous, -BAN, 0.0)
        logits.index_put_((rows, token_ids), bans.to(logits.dtype), accumulate=True)
    rows, token_ids = masks.masked
    if rows.numel():
        logits[rows, token_ids] = -torch.inf
    if masks.limited_rows.numel():
        sampling.apply_token_mask(logits, masks.limited_rows, masks.token_mask)


def _token_mask(request: Request, vocab_size: int, fitting: Mapping[str, Array]) -> Array | None:
    """The only tokens that may come out of a row; None: all may."""
    if request.request_id in fitting:
        return fitting[request.request_id]
    allowed = request.sampling_params.allowed_token_ids
    return token_bits(allowed, vocab_size) if allowed else None


def token_bits(token_ids: Sequence[int], vocab_size: int) -> Array:
    """[ceil(vocab_size / 64)] int64 with the bits of these tokens set."""
    is_allowed = np.zeros(-(-vocab_size // MASK_WORD_BITS) * MASK_WORD_BITS, dtype=np.bool_)
    is_allowed[np.array(token_ids, dtype=np.int64)] = True
    return np.packbits(is_allowed, bitorder="little").view("<i8")


def _early_stops(requests: Sequence[Request], eos_token_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Every way to stop, of rows that have fewer than min_tokens tokens."""
    return [
        (row, token_id)
        for row, request in enumerate(requests)
        if request.num_output_tokens < request.sampling_params.min_tokens
        for token_id in (*eos_token_ids, *request.sampling_params.stop_token_ids)
    ]


def _bad_words(
    requests: Sequence[Request], pending_rows: Mapping[str, int]
) -> tuple[list[tuple[int, int]], list[tuple[int, int, int, int]]]:
    """The last tokens of bad words whose other tokens the output ends with: known to, and as far as known."""
    banned, follow_ups = [], []
    for row, request in enumerate(requests):
        for *others, last in request.sampling_params.bad_words_token_ids:
            num_pending = min(len(others), request.num_pending_tokens)
            known = others[: len(others) - num_pending]
            if not _ends_with(request.output_token_ids, known):
                continue
            if num_pending:
                follow_ups.append((row, last, pending_rows[request.request_id], others[-1]))
            else:
                banned.append((row, last))
    return banned, follow_ups


def _ends_with(token_ids: list[int], end: list[int]) -> bool:
    return not end or token_ids[-len(end) :] == end


def _columns(rows: Iterable[tuple[int, ...]], num_columns: int) -> list[Array]:
    return list(np.array([*rows], dtype=np.int64).reshape(-1, num_columns).T)
