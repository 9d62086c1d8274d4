"""The reference backend: plain PyTorch over the paged cache, on any device and in any dtype."""

from typing import NamedTuple

import torch
from torch import Tensor

from engine.batch import BatchTensors
from engine.kernels import reference
from engine.models.spec import DecoderSpec, LayerSpec
from kvcache.storage import KVStorage

MIN_FILL = 0.75
"""Sequences share a batched product while the shortest is at least this share of the longest: padding costs time."""


class Group(NamedTuple):
    """Sequences that compute equally many tokens over contexts of about the same length.

    Attributes:
        token_idx: [num_seqs * query_len] int64: their rows among the step's tokens.
        slots: [num_seqs, seq_len] int64: cache slot of every position; padded with slot 0.
        positions: [num_seqs, query_len] int64: position of every query.
        query_len: tokens that each computes.
    """

    token_idx: Tensor
    slots: Tensor
    positions: Tensor
    query_len: int


class ReferenceBackend:
    """Groups the sequences of a step by length, then runs one batched product a group and layer."""

    name = "reference"

    def __init__(self, spec: DecoderSpec, storage: KVStorage) -> None:
        self._spec = spec
        self._storage = storage
        self._block_size = storage.k(0).shape[1]
        self._slot_mapping = torch.empty(0)
        self._groups: list[Group] = []
        self._masks: dict[int | None, list[Tensor]] = {}
        device = storage.k(0).device
        self._slopes = {
            slopes: torch.tensor(slopes, dtype=torch.float32, device=device)
            for slopes in {layer.alibi_slopes for layer in spec.layers if layer.alibi_slopes}
        }

    @staticmethod
    def objections(spec: DecoderSpec, dtype: torch.dtype, device: torch.device) -> list[str]:
        """None: it is the path that everything falls back to."""
        return []

    def plan(self, batch: BatchTensors) -> None:
        """Group the sequences and build each group's slots and, per window size, masks."""
        self._slot_mapping = batch.slot_mapping
        members = group_by_length(batch.query_lens, batch.seq_lens_list)
        self._groups = [self._build_group(batch, seqs) for seqs in members]
        windows = {layer.sliding_window for layer in self._spec.layers}
        self._masks = {
            window: [reference.causal_mask(group.positions, group.slots.shape[1], window) for group in self._groups]
            for window in windows
        }

    @property
    def paged_step(self) -> None:
        """It runs layer by layer."""
        return None

    def forward(self, layer_idx: int, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None) -> Tensor:
        """See AttentionBackend.forward."""
        layer = self._spec.layers[layer_idx]
        k_cache, v_cache = self._storage.k(layer_idx), self._storage.v(layer_idx)
        reference.store_kv(k, v, k_cache, v_cache, self._slot_mapping)
        out = q.new_empty(q.shape[0], layer.num_q_heads, layer.v_head_dim)
        for group, mask in zip(self._groups, self._masks[layer.sliding_window], strict=True):
            attended = reference.grouped_attention(
                q[group.token_idx].unflatten(0, (-1, group.query_len)),
                k_cache,
                v_cache,
                group.slots,
                mask,
                softmax_scale=layer.softmax_scale,
                softcap=layer.softcap,
                bias=self._alibi_bias(layer, group),
                sinks=sinks,
            )
            out[group.token_idx] = attended.flatten(0, 1)
        return out.flatten(1)

    def _alibi_bias(self, layer: LayerSpec, group: Group) -> Tensor | None:
        if layer.alibi_slopes is None:
            return None
        return reference.alibi_bias(self._slopes[layer.alibi_slopes], group.positions, group.slots.shape[1])

    def _build_group(self, batch: BatchTensors, seqs: list[int]) -> Group:
        device, block_size = batch.block_tables.device, self._block_size
        query_len = batch.query_lens[seqs[0]]
        seq_idx = torch.tensor(seqs, device=device)
        length = max(batch.seq_lens_list[seq] for seq in seqs)
        place = torch.arange(length, device=device)
        slots = batch.block_tables[seq_idx][:, place // block_size] * block_size + place % block_size
        starts = batch.cu_seqlens_q[seq_idx].unsqueeze(1)
        token_idx = (starts + torch.arange(query_len, device=device)).flatten()
        return Group(token_idx, slots, batch.positions[token_idx].view(-1, query_len), query_len)


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
