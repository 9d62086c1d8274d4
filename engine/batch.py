"""Lists to tensors: the one place where the scheduler's names become tensor names.

Nothing is padded but the block tables: tokens of all sequences lie one after the other, and the counts say whether a
sequence prefills, continues a chunk or decodes.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.request import ScheduledBatch, ScheduledRequest
from kvcache.manager import NO_BLOCK


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
        query_lens: tokens each sequence computes, on the host.
        seq_lens_list: context_len + query_len of each, on the host.
    """

    input_ids: Tensor
    previous_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor
    block_tables: Tensor
    cu_seqlens_q: Tensor
    query_lens: list[int]
    seq_lens_list: list[int]


def build_batch(batch: ScheduledBatch, block_size: int, device: torch.device) -> BatchTensors:
    """Tensors of `batch` on `device`."""
    items = batch.scheduled
    query_lens = [item.num_scheduled_tokens for item in items]
    context_lens = np.array([item.num_computed_tokens for item in items], dtype=np.int64)
    cu_seqlens_q = np.concatenate(([0], np.cumsum(query_lens, dtype=np.int64)))
    tokens = [i for item in items for i in item.request.token_ids(item.num_computed_tokens, item.seq_len)]
    input_ids = np.array(tokens, dtype=np.int64)
    previous_ids = np.roll(input_ids, 1)
    previous_ids[cu_seqlens_q[:-1]] = [_token_before(item) for item in items]
    seq_of_token = np.repeat(np.arange(len(items)), query_lens)
    positions = np.arange(cu_seqlens_q[-1]) - cu_seqlens_q[seq_of_token] + context_lens[seq_of_token]
    block_tables = _stacked([item.block_tables for item in items])
    slots = block_tables[:, seq_of_token, positions // block_size] * block_size + positions % block_size
    return BatchTensors(
        input_ids=torch.from_numpy(input_ids).to(device),
        previous_ids=torch.from_numpy(previous_ids).to(device),
        positions=torch.from_numpy(positions).to(device),
        slot_mapping=torch.from_numpy(np.ascontiguousarray(slots)).to(device),
        block_tables=torch.from_numpy(block_tables).to(device),
        cu_seqlens_q=torch.from_numpy(cu_seqlens_q).to(device),
        query_lens=query_lens,
        seq_lens_list=[item.seq_len for item in items],
    )


def _token_before(item: ScheduledRequest) -> int:
    place = item.num_computed_tokens
    return item.request.token_ids(place - 1, place)[0] if place else 0


def _stacked(tables: list[list[list[int]]]) -> np.ndarray[tuple[int, int, int], np.dtype[np.int64]]:
    """[num_groups, num_seqs, max_blocks] of the block tables of each sequence and group."""
    width = max(len(groups[0]) for groups in tables)
    stacked = np.empty((len(tables[0]), len(tables), width), dtype=np.int64)
    for seq, groups in enumerate(tables):
        for rows, table in zip(stacked, groups, strict=True):
            row = rows[seq]
            row[: len(table)] = table
            row[len(table) :] = table[-1]
            if table[0] == NO_BLOCK:
                row[row == NO_BLOCK] = table[-1]
    return stacked
