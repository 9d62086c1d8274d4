"""Two backends as one: sequences that compute one token go to the first, all others to the second."""

from typing import ClassVar

import torch
from torch import Tensor

from engine.attention.base import AttentionBackend
from engine.attention.paged import PagedBackend
from engine.batch import BatchTensors
from engine.models.spec import DecoderSpec
from kvcache.storage import KVStorage


class PhasedBackend(PagedBackend):
    """What `combine` makes classes of."""

    name: str
    grows_with_context: bool
    is_graphable: bool
    kinds: ClassVar[tuple[type[AttentionBackend], type[AttentionBackend]]]
    """For decodes, and for the rest."""

    def __init__(self, spec: DecoderSpec, storage: KVStorage) -> None:
        super().__init__(spec, storage)
        self._backends = [kind(spec, storage) for kind in self.kinds]
        self._parts: list[tuple[AttentionBackend, Tensor | None]] = []

    @staticmethod
    def objections(
        spec: DecoderSpec, dtype: torch.dtype, device: torch.device, kv_cache_dtype: torch.dtype, block_size: int
    ) -> list[str]:
        """None: it is made of backends that had none."""
        return []

    def plan(self, batch: BatchTensors) -> None:
        """Plan each backend's share; a step of one phase alone goes to its backend as it is."""
        super().plan(batch)
        self._parts = []
        for backend, is_decode in zip(self._backends, (True, False), strict=True):
            seqs = [seq for seq, query_len in enumerate(batch.query_lens) if (query_len == 1) is is_decode]
            if len(seqs) == len(batch.query_lens):
                backend.plan(batch)
                self._parts.append((backend, None))
            elif seqs:
                part, token_idx = select_sequences(batch, seqs)
                backend.plan(part)
                self._parts.append((backend, token_idx))

    def forward(self, layer_idx: int, q: Tensor, sinks: Tensor | None = None) -> Tensor:
        """See AttentionBackend.forward.

        Raises:
            RuntimeError: no step is planned.
        """
        self._planned()
        first, token_idx = self._parts[0]
        if token_idx is None:
            return first.forward(layer_idx, q, sinks)
        out = q.new_empty(q.shape[0], self._spec.layers[layer_idx].o_width)
        for backend, token_idx in self._parts:
            out[token_idx] = backend.forward(layer_idx, q[token_idx], sinks)
        return out


def combine(prefill: type[AttentionBackend], decode: type[AttentionBackend]) -> type[AttentionBackend]:
    """A backend of both; the one itself where both are the same."""
    if prefill is decode:
        return prefill

    class Combined(PhasedBackend):
        name = f"{prefill.name} (prefill), {decode.name} (decode)"
        grows_with_context = prefill.grows_with_context or decode.grows_with_context
        is_graphable = decode.is_graphable  # graphs are of steps that decode only
        kinds = (decode, prefill)

    return Combined


def select_sequences(batch: BatchTensors, seqs: list[int]) -> tuple[BatchTensors, Tensor]:
    """Some sequences of a step as a step, and which of its tokens are theirs [num_tokens] int64.

    Worked example: of query_lens [1, 3, 1] the sequences [0, 2] have the tokens [0, 4].
    """
    device = batch.cu_seqlens_q.device
    query_lens = [batch.query_lens[seq] for seq in seqs]
    starts = torch.tensor([0, *batch.query_lens]).cumsum(0).tolist()
    tokens = [token for seq in seqs for token in range(starts[seq], starts[seq + 1])]
    seq_idx, token_idx = (torch.tensor(numbers).to(device, non_blocking=True) for numbers in (seqs, tokens))
    part = BatchTensors(
        input_ids=batch.input_ids[token_idx],
        previous_ids=batch.previous_ids[token_idx],
        positions=batch.positions[token_idx],
        slot_mapping=batch.slot_mapping[:, token_idx],
        block_tables=batch.block_tables[:, seq_idx],
        cu_seqlens_q=torch.tensor([0, *query_lens]).cumsum(0).to(device, non_blocking=True),
        seq_lens=batch.seq_lens[seq_idx],
        pending_places=batch.pending_places[:0],
        pending_rows=batch.pending_rows[:0],
        query_lens=query_lens,
        seq_lens_list=[batch.seq_lens_list[seq] for seq in seqs],
    )
    return part, token_idx
