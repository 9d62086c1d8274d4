"""Lists to tensors: the one place where the scheduler's names become tensor names.

Nothing is padded but the block tables: tokens of all sequences lie one after the other, and the counts say whether a
sequence prefills, continues a chunk or decodes. A pending token, sampled by the step before and not known to the host, is
0 here; `BatchTensors.fill_pending` puts it in its place on the device.
"""

from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.request import ScheduledBatch, ScheduledRequest
from engine.transfers import to_device
from kvcache.manager import NO_BLOCK

Ints = NDArray[np.int64]


class BatchArrays(NamedTuple):
    """One step on the host; shapes and meanings as in BatchTensors."""

    input_ids: Ints
    previous_ids: Ints
    positions: Ints
    slot_mapping: Ints
    block_tables: Ints
    cu_seqlens_q: Ints
    seq_lens: Ints
    pending_places: Ints
    pending_rows: Ints

    def to_device(self, device: torch.device) -> "BatchTensors":
        """The same as tensors."""
        query_lens: list[int] = np.diff(self.cu_seqlens_q).tolist()
        tensors = dict(zip(self._fields, to_device(self, device), strict=True))
        return BatchTensors(**tensors, query_lens=query_lens, seq_lens_list=self.seq_lens.tolist())


class BatchTensors(NamedTuple):
    """One step on the device.

    Attributes:
        input_ids: [num_tokens] int64.
        previous_ids: [num_tokens] int64, the token before each; 0 where there is none.
        positions: [num_tokens] int64, place of each token in its sequence.
        slot_mapping: [num_groups, num_tokens] int64, where each token's KV is written, for each group of layers.
        block_tables: [num_groups, num_seqs, max_blocks] int64. Places that hold no block (past the end, or behind the
            window) hold one of the same request, so that a kernel that reads before it masks reads nothing foreign.
        cu_seqlens_q: [num_seqs + 1] int64, sequence i computes tokens [cu_seqlens_q[i], cu_seqlens_q[i + 1]).
        seq_lens: [num_seqs] int64, context_len + query_len of each.
        pending_places: [num_pending] int64, tokens among the inputs that the host does not know.
        pending_rows: [num_pending] int64, which row of what the step before sampled each of them is.
        query_lens: tokens each sequence computes, on the host.
        seq_lens_list: seq_lens, on the host.
    """

    input_ids: Tensor
    previous_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor
    block_tables: Tensor
    cu_seqlens_q: Tensor
    seq_lens: Tensor
    pending_places: Tensor
    pending_rows: Tensor
    query_lens: list[int]
    seq_lens_list: list[int]

    def fill_pending(self, sampled: Tensor) -> None:
        """Put the tokens that the step before sampled, [num_rows] int64, among the inputs."""
        if self.pending_places.numel():
            self.input_ids[self.pending_places] = sampled[self.pending_rows]


def build_batch(batch: ScheduledBatch, block_size: int, device: torch.device) -> BatchTensors:
    """Tensors of a batch without pending tokens on `device`."""
    return build_arrays(batch, block_size, {}).to_device(device)


def build_arrays(batch: ScheduledBatch, block_size: int, sampled_rows: Mapping[str, int]) -> BatchArrays:
    """Arrays of `batch`.

    Args:
        batch: to compute next.
        block_size: tokens in a block.
        sampled_rows: request_id -> row in what the step before has sampled.
    """
    items = batch.scheduled
    query_lens = [item.num_scheduled_tokens for item in items]
    context_lens = np.array([item.num_computed_tokens for item in items], dtype=np.int64)
    cu_seqlens_q = np.array([*accumulate(query_lens, initial=0)], dtype=np.int64)
    input_ids = np.array([token_id for item in items for token_id in _token_ids(item)], dtype=np.int64)
    previous_ids = np.empty_like(input_ids)
    previous_ids[1:] = input_ids[:-1]
    previous_ids[cu_seqlens_q[:-1]] = [_token_before(item) for item in items]
    seq_of_token = np.repeat(np.arange(len(items)), query_lens)
    positions = np.arange(cu_seqlens_q[-1]) - cu_seqlens_q[seq_of_token] + context_lens[seq_of_token]
    block_tables = _stacked([item.block_tables for item in items])
    slots = block_tables[:, seq_of_token, positions // block_size] * block_size + positions % block_size
    pending = [seq for seq, item in enumerate(items) if item.has_pending_token]
    return BatchArrays(
        input_ids=input_ids,
        previous_ids=previous_ids,
        positions=positions,
        slot_mapping=slots,
        block_tables=block_tables,
        cu_seqlens_q=cu_seqlens_q,
        seq_lens=np.array([item.seq_len for item in items], dtype=np.int64),
        pending_places=cu_seqlens_q[1:][pending] - 1,
        pending_rows=np.array([sampled_rows[items[seq].request.request_id] for seq in pending], dtype=np.int64),
    )


def _token_ids(item: ScheduledRequest) -> list[int]:
    """The tokens that a request computes, 0 in place of a pending one."""
    token_ids = item.request.token_ids(item.num_computed_tokens, item.seq_len)
    return [*token_ids, 0] if item.has_pending_token else token_ids


def _token_before(item: ScheduledRequest) -> int:
    place = item.num_computed_tokens
    return item.request.token_ids(place - 1, place)[0] if place else 0


def _stacked(tables: list[list[list[int]]]) -> NDArray[np.int64]:
    """[num_groups, num_seqs, max_blocks] of the block tables of each sequence and group."""
    width = max(len(groups[0]) for groups in tables)
    stacked = [[_filled(table, width) for table in of_group] for of_group in zip(*tables, strict=True)]
    return np.array(stacked, dtype=np.int64)


def _filled(table: list[int], width: int) -> list[int]:
    """A block table without gaps, of that many places: its last block stands where there is none."""
    last = table[-1]
    blocks = [last if block == NO_BLOCK else block for block in table] if table[0] == NO_BLOCK else table
    return blocks + [last] * (width - len(blocks))
