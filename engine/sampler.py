"""Logits to token ids, for the whole batch at once. Nothing here waits for the device."""

from typing import NamedTuple

from torch import Tensor

from engine.kernels import sampling
from engine.kernels.select import select_sampling
from engine.request import TokenLogprobs
from engine.sampling_tensors import Draws, SamplingTensors
from engine.token_masks import apply_masks


class Logprobs(NamedTuple):
    """Log-probabilities at some positions, from the model's own distribution.

    Attributes:
        token_ids: [num_rows] int64.
        logprobs: [num_rows], of those.
        top_token_ids: [num_rows, num_top] int64, the most probable ones in order.
        top_logprobs: [num_rows, num_top].
    """

    token_ids: Tensor
    logprobs: Tensor
    top_token_ids: Tensor
    top_logprobs: Tensor

    def to_list(self, num_tops: list[int]) -> list[TokenLogprobs]:
        """As plain data, each row with so many of the most probable ones."""
        rows = zip(*(tensor.tolist() for tensor in self), num_tops, strict=True)
        return [
            TokenLogprobs(token_id, logprob, ids[:num_top], values[:num_top])
            for token_id, logprob, ids, values, num_top in rows
        ]


def sample(logits: Tensor, wanted: SamplingTensors) -> Tensor:
    """One token for each row.

    The order is: penalties, logit_bias, masks, temperature, top_k, top_p, min_p, then the draw.

    Args:
        logits: [num_rows, vocab_size] float32 or wider; changed in place.
        wanted: by the rows.

    Returns:
        [num_rows] int64.
    """
    adjust_logits(logits, wanted)
    kinds = ((wanted.plain, _draw), (wanted.truncated, _draw_truncated))
    # Where all rows are drawn in one way, as in most steps, none is copied.
    for draws, draw in kinds:
        if draws.rows.numel() == len(logits):
            return draw(logits, draws)
    token_ids = select_sampling(logits.device, logits.dtype).most_probable(logits)
    for draws, draw in kinds:
        if draws.rows.numel():
            token_ids[draws.rows] = draw(logits[draws.rows], draws)
    return token_ids


def compute_logprobs(logits: Tensor, token_ids: Tensor, num_top: int) -> Logprobs:
    """Log-probabilities of the given tokens and of the most probable ones.

    Args:
        logits: [num_rows, vocab_size], as the model gave them.
        token_ids: [num_rows] int64.
        num_top: how many most probable tokens to list.
    """
    logprobs = logits.log_softmax(dim=-1)
    chosen = logprobs.gather(1, token_ids.unsqueeze(1)).squeeze(1)
    top = logprobs.topk(num_top, dim=-1)
    return Logprobs(token_ids, chosen, top.indices, top.values)


def adjust_logits(logits: Tensor, wanted: SamplingTensors) -> None:
    """Penalties, logit_bias and masks, in place; rows that ask for none of them cost nothing."""
    for row, params, prompt_token_ids, output_token_ids in wanted.penalized:
        sampling.apply_penalties(
            logits[row],
            prompt_token_ids,
            output_token_ids,
            repetition_penalty=params.repetition_penalty,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
        )
    rows, token_ids, biases = wanted.biased
    if rows.numel():
        logits[rows, token_ids] += biases.to(logits.dtype)
    apply_masks(logits, wanted.masks, wanted.pending_token_ids)


def _draw(logits: Tensor, draws: Draws) -> Tensor:
    """Random tokens [num_rows]."""
    kernels = select_sampling(logits.device, logits.dtype)
    return kernels.draw(logits, draws.temperature.to(logits.dtype), draws.uniform)


def _draw_truncated(logits: Tensor, draws: Draws) -> Tensor:
    """Random tokens [num_rows] among the most probable ones."""
    return select_sampling(logits.device, logits.dtype).draw_truncated(
        logits,
        draws.temperature.to(logits.dtype),
        draws.uniform,
        top_k=draws.top_k,
        top_p=draws.top_p.to(logits.dtype),
        min_p=draws.min_p.to(logits.dtype),
    )
