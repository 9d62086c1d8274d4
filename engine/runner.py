"""Runs steps on the device: batch in, token ids (and log-probabilities) out, later.

Launching puts a step's work on the device and waits for nothing. The tokens it samples stay there, for the next step to
begin with; the host reads them when it needs to know what they are.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine import memory, sampler
from engine.attention.base import AttentionBackend
from engine.batch import BatchArrays, build_arrays
from engine.grammar_states import GrammarStates
from engine.graphs import DecodeGraphs
from engine.models.decoder import Decoder
from engine.observing import packed_attention
from engine.pending import PendingStep, Reported, StepOutput
from engine.request import MAX_LOGPROB_ROWS, ScheduledBatch, ScheduledRequest
from engine.sampling_tensors import Pending, build_sampling, nothing_pending
from engine.transfers import to_device


class Runner:
    """Owns the model, its KV storage (through the attention backend) and the device.

    Args:
        decoder: the model.
        attention: the chosen backend, bound to the storage.
        block_size: of the storage.
        eos_token_ids: the model's end-of-sequence tokens (min_tokens masks them).
        device: where everything lies.
        grammars: say which tokens fit.
        graphs: take the steps that fit them.
    """

    def __init__(
        self,
        decoder: Decoder,
        attention: AttentionBackend,
        *,
        block_size: int,
        eos_token_ids: list[int],
        device: torch.device,
        grammars: GrammarStates,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self._decoder = decoder
        self.attention = attention
        self._block_size = block_size
        self._eos_token_ids = eos_token_ids
        self._device = device
        self._grammars = grammars
        self._graphs = graphs
        self._pending = nothing_pending(device)

    @torch.inference_mode()
    def launch(self, batch: ScheduledBatch) -> PendingStep:
        """Start a step. Tokens that are pending in it must be of the step launched before.

        Side effects: the KV of its tokens will be in the storage before a later step runs.
        """
        arrays = build_arrays(batch, self._block_size, self._pending.rows)
        hidden = self._compute(arrays)
        starts = arrays.cu_seqlens_q.tolist()
        items = [row for row, item in enumerate(batch.scheduled) if item.samples]
        sampled, of_samples = self._sample(batch, hidden, items, [starts[item + 1] - 1 for item in items])
        of_prompts = [
            part
            for item, scheduled in enumerate(batch.scheduled)
            if scheduled.reported_places
            for part in self._prompt_logprobs(scheduled, item, hidden, starts[item])
        ]
        rows = {batch.scheduled[item].request.request_id: row for row, item in enumerate(items)}
        self._pending = Pending(rows, sampled)
        return PendingStep(len(batch.scheduled), items, sampled, of_samples, of_prompts)

    def recover(self) -> None:
        """Make ready for a next step after one has failed.

        Raises:
            RuntimeError: the device is lost, as after an illegal memory access.
        """
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._pending = nothing_pending(self._device)
        memory.release(self._device)

    def attention_maps(self, token_ids: Sequence[int], layers: Sequence[int]) -> list[bytes]:
        """The attention weights of a text, see engine.observing.packed_attention; the storage is not touched."""
        return packed_attention(self._decoder, token_ids, layers)

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        """Launch a step and wait for what it gives."""
        return self.launch(batch).result()

    def _compute(self, arrays: BatchArrays) -> Tensor:
        """Hidden states [num_tokens, hidden_size] of a step."""
        if self._graphs is not None and (size := self._graphs.size_for(arrays)) is not None:
            return self._graphs.run(arrays, size, self._pending.token_ids)
        tensors = arrays.to_device(self._device)
        tensors.fill_pending(self._pending.token_ids)
        self.attention.plan(tensors)
        return self._decoder(tensors, self.attention)

    def _sample(
        self, batch: ScheduledBatch, hidden: Tensor, items: list[int], hidden_rows: list[int]
    ) -> tuple[Tensor, list[Reported]]:
        """Next tokens of some requests of the batch, [len(items)] int64, and their log-probabilities where asked for."""
        if not items:
            return self._pending.token_ids[:0], []
        requests = [batch.scheduled[item].request for item in items]
        fitting = self._grammars.masks(requests)  # now that the device is busy
        # Every row has a token of its own: as many tokens as rows, as in a step that only decodes, are the rows in order.
        in_order = len(items) == len(hidden)
        wanted = build_sampling(
            requests,
            [] if in_order else hidden_rows,
            self._eos_token_ids,
            self._decoder.vocab_size,
            self._pending,
            fitting=fitting,
        )
        logits = self._decoder.logits(hidden if in_order else hidden[wanted.hidden_rows])
        num_tops = [request.sampling_params.logprobs for request in requests]
        reported = [(item, num_top) for item, num_top in zip(items, num_tops, strict=True) if num_top is not None]
        if not reported:
            return sampler.sample(logits, wanted), []
        untouched = logits.clone()
        sampled = sampler.sample(logits, wanted)
        rows, num_tops_of = wanted.logprob_rows, [num_top for _, num_top in reported]
        found = sampler.compute_logprobs(untouched[rows], sampled[rows], max(num_tops_of))
        return sampled, [Reported([item for item, _ in reported], num_tops_of, found)]

    def _prompt_logprobs(self, item: ScheduledRequest, index: int, hidden: Tensor, start: int) -> list[Reported]:
        """Log-probabilities of the prompt tokens that this step's tokens predict.

        Args:
            item: the request's part of the step.
            index: of it in the batch.
            hidden: [num_tokens, hidden_size] of the whole step.
            start: its first row there.
        """
        places, num_top = item.reported_places, item.request.sampling_params.prompt_logprobs or 0
        found = []
        for first in places[::MAX_LOGPROB_ROWS]:
            stop = min(first + MAX_LOGPROB_ROWS, places.stop)
            rows = hidden[start + first - item.num_computed_tokens : start + stop - item.num_computed_tokens]
            targets = np.array(item.request.prompt_token_ids[first + 1 : stop + 1], dtype=np.int64)
            [token_ids] = to_device([targets], self._device)
            logprobs = sampler.compute_logprobs(self._decoder.logits(rows), token_ids, num_top)
            found.append(Reported([index] * (stop - first), [num_top] * (stop - first), logprobs))
        return found
