"""The reference backend: plain PyTorch over the paged cache, on any device and in any dtype."""

from typing import NamedTuple

import torch
from torch import Tensor

from engine.attention.paged import PagedBackend
from engine.attention.slopes import slopes_of_layers
from engine.batch import BatchTensors
from engine.kernels import reference_attention
from engine.models.spec import DecoderSpec
from kvcache.storage import KVStorage

MIN_FILL = 0.75
"""Sequences share a batched product while the shortest is at least this share of the longest: padding costs time."""


class Batched(NamedTuple):
    """Sequences that compute equally many tokens over contexts of about the same length.

    Attributes:
        token_idx: [num_seqs * query_len] int64: their rows among the step's tokens.
        positions: [num_seqs, query_len] int64: position of every query.
        seq_idx: [num_seqs] int64: which sequences.
        seq_len: of the longest.
        query_len: tokens that each computes.
    """

    token_idx: Tensor
    positions: Tensor
    seq_idx: Tensor
    seq_len: int
    query_len: int


class Keys(NamedTuple):
    """What the queries of a batch see in layers of one kind.

    Attributes:
        places: [num_keys] int64: positions, the same for all sequences.
        slots: [num_seqs, num_keys] int64: where their keys lie.
        mask: [num_seqs, query_len, num_keys] bool.
    """

    places: Tensor
    slots: Tensor
    mask: Tensor


class ReferenceBackend(PagedBackend):
    """Batches the sequences of a step by length, then runs one product a batch and layer."""

    name = "reference"
    grows_with_context = True
    is_graphable = False

    def __init__(self, spec: DecoderSpec, storage: KVStorage) -> None:
        super().__init__(spec, storage)
        self._block_size = storage.geometry.block_size
        self._kinds = [(group, layer.sliding_window) for group, layer in zip(self._groups, spec.layers, strict=True)]
        self._batches: list[Batched] = []
        self._keys: dict[tuple[int, int | None], list[Keys]] = {}
        self._slopes = slopes_of_layers(spec, self._device)

    @staticmethod
    def objections(
        spec: DecoderSpec, dtype: torch.dtype, device: torch.device, kv_cache_dtype: torch.dtype, block_size: int
    ) -> list[str]:
        """None: it is the path that everything falls back to."""
        return []

    def plan(self, batch: BatchTensors) -> None:
        """Batch the sequences and find, per group and window, the keys that each batch sees."""
        super().plan(batch)
        members = group_by_length(batch.query_lens, batch.seq_lens_list)
        self._batches = [self._build_batch(batch, seqs) for seqs in members]
        self._keys = {
            (group, window): [self._build_keys(batch, batched, group, window) for batched in self._batches]
            for group, window in set(self._kinds)
        }

    def forward(self, layer_idx: int, q: Tensor, sinks: Tensor | None = None) -> Tensor:
        """See AttentionBackend.forward.

        Raises:
            RuntimeError: no step is planned.
        """
        self._planned()
        layer, cache = self._spec.layers[layer_idx], self._caches[layer_idx]
        out = q.new_empty(q.shape[0], layer.num_q_heads, layer.v_head_dim)
        for batched, keys in zip(self._batches, self._keys[self._kinds[layer_idx]], strict=True):
            attended = reference_attention.grouped_attention(
                q[batched.token_idx].unflatten(0, (-1, batched.query_len)),
                cache,
                keys.slots,
                keys.mask,
                softmax_scale=layer.softmax_scale,
                softcap=layer.softcap,
                bias=self._alibi_bias(layer_idx, batched, keys),
                sinks=sinks,
            )
            out[batched.token_idx] = attended.flatten(0, 1)
        return out.flatten(1)

    def _alibi_bias(self, layer_idx: int, batched: Batched, keys: Keys) -> Tensor | None:
        slopes = self._slopes[layer_idx]
        return None if slopes is None else reference_attention.alibi_bias(slopes, batched.positions, keys.places)

    def _build_batch(self, batch: BatchTensors, seqs: list[int]) -> Batched:
        device, query_len = batch.positions.device, batch.query_lens[seqs[0]]
        seq_idx = torch.tensor(seqs, device=device)
        starts = batch.cu_seqlens_q[seq_idx].unsqueeze(1)
        token_idx = (starts + torch.arange(query_len, device=device)).flatten()
        positions = batch.positions[token_idx].view(-1, query_len)
        return Batched(token_idx, positions, seq_idx, max(batch.seq_lens_list[seq] for seq in seqs), query_len)

    def _build_keys(self, batch: BatchTensors, batched: Batched, group: int, window: int | None) -> Keys:
        """Keys before the first query's window are left out: their blocks may be somebody else's by now."""
        first = 0 if window is None else max(0, int(batched.positions.min()) - window + 1)
        places = torch.arange(first, batched.seq_len, device=batched.positions.device)
        tables = batch.block_tables[group][batched.seq_idx]
        slots = tables[:, places // self._block_size] * self._block_size + places % self._block_size
        return Keys(places, slots, reference_attention.causal_mask(batched.positions, places, window))


def group_by_length(query_lens: list[int], seq_lens: list[int]) -> list[list[int]]:
    """Indices of sequences that are worth batching: equal query_len, seq_len within MIN_FILL of the longest.

    For query_lens [1, 1, 8, 1] and seq_lens [100, 90, 8, 20]: [[2], [0, 1], [3]].
    """
    order = sorted(range(len(seq_lens)), key=lambda seq: (-query_lens[seq], -seq_lens[seq]))
    groups: list[list[int]] = []
    for seq in order:
        first = groups[-1][0] if groups else None
        fits = first is not None and query_lens[first] == query_lens[seq]
        if first is not None and fits and seq_lens[seq] >= MIN_FILL * seq_lens[first]:
            groups[-1].append(seq)
        else:
            groups.append([seq])
    return groups
