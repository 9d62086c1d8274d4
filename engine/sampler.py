"""Logits to token ids, for the whole batch at once."""

import torch
from torch import Tensor

from engine.kernels import sampling
from engine.kernels.select import select_sampling
from engine.request import Request, SamplingParams, TokenLogprobs


def sample(logits: Tensor, requests: list[Request], eos_token_ids: list[int]) -> Tensor:
    """One token for each row.

    The order is: penalties, logit_bias, min_tokens, temperature, top_k, top_p, min_p, then the draw.

    Args:
        logits: [num_rows, vocab_size] float32 or wider; changed in place.
        requests: one a row, as they are before the token.
        eos_token_ids: the model's own end-of-sequence tokens (masked by min_tokens).

    Returns:
        [num_rows] int64.
    """
    adjust_logits(logits, requests, eos_token_ids)
    token_ids = logits.argmax(dim=-1)
    for is_truncated in (False, True):
        rows = [
            i for i, r in enumerate(requests) if r.sampling_params.temperature > 0 and _truncates(r) == is_truncated
        ]
        if rows:
            idx = torch.tensor(rows, device=logits.device)
            token_ids[idx] = _draw(logits[idx], [requests[row] for row in rows], is_truncated=is_truncated)
    return token_ids


def compute_logprobs(logits: Tensor, token_ids: Tensor, num_tops: list[int | None]) -> list[TokenLogprobs | None]:
    """Log-probabilities of the given tokens and of the most probable ones, from the model's own distribution.

    Args:
        logits: [num_rows, vocab_size], as the model gave them.
        token_ids: [num_rows] int64.
        num_tops: for each row how many most probable tokens to list; None: nothing is asked for.
    """
    rows = [row for row, num_top in enumerate(num_tops) if num_top is not None]
    results: list[TokenLogprobs | None] = [None] * len(num_tops)
    if not rows:
        return results
    idx = torch.tensor(rows, device=logits.device)
    logprobs, chosen = logits[idx].log_softmax(dim=-1), token_ids[idx]
    chosen_logprobs = logprobs.gather(1, chosen.unsqueeze(1)).squeeze(1).tolist()
    top = logprobs.topk(max(n for n in num_tops if n is not None), dim=-1)
    tops = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    for row, token_id, logprob, (ids, values) in zip(rows, chosen.tolist(), chosen_logprobs, tops, strict=True):
        num_top = num_tops[row]
        results[row] = TokenLogprobs(token_id, logprob, ids[:num_top], values[:num_top])
    return results


def adjust_logits(logits: Tensor, requests: list[Request], eos_token_ids: list[int]) -> None:
    """Penalties, logit_bias and min_tokens, in place; rows that ask for none of them cost nothing."""
    for row, request in enumerate(requests):
        params = request.sampling_params
        if _has_penalty(params):
            sampling.apply_penalties(
                logits[row],
                torch.tensor(request.prompt_token_ids, device=logits.device),
                torch.tensor(request.output_token_ids, dtype=torch.int64, device=logits.device),
                repetition_penalty=params.repetition_penalty,
                presence_penalty=params.presence_penalty,
                frequency_penalty=params.frequency_penalty,
            )
        if params.logit_bias:
            bias = torch.tensor(list(params.logit_bias.values()), dtype=logits.dtype, device=logits.device)
            logits[row, list(params.logit_bias)] += bias
        if len(request.output_token_ids) < params.min_tokens:
            logits[row, [*eos_token_ids, *params.stop_token_ids]] = -torch.inf


def _draw(logits: Tensor, requests: list[Request], *, is_truncated: bool) -> Tensor:
    """Random tokens [num_rows]; whether rows are sorted depends on the row alone, never on its neighbours."""
    params = [request.sampling_params for request in requests]
    draws = [sampling.uniform(p.seed or 0, len(r.output_token_ids)) for p, r in zip(params, requests, strict=True)]
    uniform = torch.tensor(draws, dtype=torch.float64, device=logits.device)
    kernels = select_sampling(logits.device, logits.dtype)
    temperature = _tensor([p.temperature for p in params], logits)
    if not is_truncated:
        return kernels.draw(logits, temperature, uniform)
    top_k = [p.top_k if p.top_k > 0 else logits.shape[-1] for p in params]
    return kernels.draw_truncated(
        logits,
        temperature,
        uniform,
        top_k=torch.tensor(top_k, device=logits.device),
        top_p=_tensor([p.top_p for p in params], logits),
        min_p=_tensor([p.min_p for p in params], logits),
    )


def _tensor(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def _truncates(request: Request) -> bool:
    params = request.sampling_params
    return params.top_k > 0 or params.top_p < 1 or params.min_p > 0


def _has_penalty(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0
