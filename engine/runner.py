"""Runs a step on the device: batch in, token ids (and log-probabilities) out."""

from typing import NamedTuple

import torch
from torch import Tensor

from engine import sampler
from engine.attention.base import AttentionBackend
from engine.batch import build_batch
from engine.models.decoder import Decoder
from engine.request import MAX_LOGPROB_ROWS, ScheduledBatch, ScheduledRequest, TokenLogprobs


class StepOutput(NamedTuple):
    """What a step gives, in the order of ScheduledBatch.scheduled.

    Attributes:
        token_ids: the sampled token, None for a request that is still in its prompt.
        logprobs: of that token, None where not asked for.
        prompt_logprobs: of the prompt positions whose predecessors were computed, where asked for.
    """

    token_ids: list[int | None]
    logprobs: list[TokenLogprobs | None]
    prompt_logprobs: list[list[TokenLogprobs]]


class Runner:
    """Owns the model, its KV storage (through the attention backend) and the device.

    Args:
        decoder: the model.
        attention: the chosen backend, bound to the storage.
        block_size: of the storage.
        eos_token_ids: the model's end-of-sequence tokens (min_tokens masks them).
        device: where everything lies.
    """

    def __init__(
        self,
        decoder: Decoder,
        attention: AttentionBackend,
        *,
        block_size: int,
        eos_token_ids: list[int],
        device: torch.device,
    ) -> None:
        self._decoder = decoder
        self.attention = attention
        self._block_size = block_size
        self._eos_token_ids = eos_token_ids
        self._device = device

    @torch.inference_mode()
    def execute(self, batch: ScheduledBatch) -> StepOutput:
        """Compute one step. Side effects: the KV of its tokens is in the storage."""
        tensors = build_batch(batch, self._block_size, self._device)
        self.attention.plan(tensors)
        hidden = self._decoder(tensors, self.attention)
        token_ids, logprobs = self._sample(batch, hidden[tensors.cu_seqlens_q[1:] - 1])
        starts = tensors.cu_seqlens_q.tolist()
        prompt_logprobs = [
            self._prompt_logprobs(item, hidden, start) for item, start in zip(batch.scheduled, starts, strict=False)
        ]
        return StepOutput(token_ids, logprobs, prompt_logprobs)

    def _sample(
        self, batch: ScheduledBatch, last_hidden: Tensor
    ) -> tuple[list[int | None], list[TokenLogprobs | None]]:
        """Next tokens of the requests whose newest token was computed in this step."""
        token_ids: list[int | None] = [None] * len(batch.scheduled)
        logprobs: list[TokenLogprobs | None] = [None] * len(batch.scheduled)
        rows = [row for row, item in enumerate(batch.scheduled) if item.samples]
        if not rows:
            return token_ids, logprobs
        requests = [batch.scheduled[row].request for row in rows]
        num_tops = [request.sampling_params.logprobs for request in requests]
        logits = self._decoder.logits(last_hidden[torch.tensor(rows, device=self._device)])
        untouched = logits.clone() if any(n is not None for n in num_tops) else logits
        sampled = sampler.sample(logits, requests, self._eos_token_ids)
        found = sampler.compute_logprobs(untouched, sampled, num_tops)
        for row, token_id, logprob in zip(rows, sampled.tolist(), found, strict=True):
            token_ids[row], logprobs[row] = token_id, logprob
        return token_ids, logprobs

    def _prompt_logprobs(self, item: ScheduledRequest, hidden: Tensor, start: int) -> list[TokenLogprobs]:
        """Log-probabilities of the prompt tokens that this step's tokens predict.

        Args:
            item: the request's part of the step.
            hidden: [num_tokens, hidden_size] of the whole step.
            start: its first row there.
        """
        num_top = item.request.sampling_params.prompt_logprobs
        if num_top is None:
            return []
        prompt = item.request.prompt_token_ids
        first = max(item.num_computed_tokens, item.request.num_reported_prompt_logprobs)
        results: list[TokenLogprobs | None] = []
        for place in range(first, min(item.seq_len, len(prompt) - 1), MAX_LOGPROB_ROWS):
            stop = min(place + MAX_LOGPROB_ROWS, item.seq_len, len(prompt) - 1)
            rows = hidden[start + place - item.num_computed_tokens : start + stop - item.num_computed_tokens]
            targets = torch.tensor(prompt[place + 1 : stop + 1], device=self._device)
            results += sampler.compute_logprobs(self._decoder.logits(rows), targets, [num_top] * (stop - place))
        return [result for result in results if result is not None]
