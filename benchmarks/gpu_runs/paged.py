"""Random paged caches and queries for attention kernels. Imports neither the engine's core nor its settings."""

from typing import NamedTuple

import torch
from torch import Tensor

from engine.kernels.triton.plan import AttentionPlan, PagedInputs
from kvcache.storage import LayerCache

BLOCK_SIZE = 16


class Heads(NamedTuple):
    """Of an attention layer."""

    num_q_heads: int
    num_kv_heads: int
    head_dim: int


class Planned(NamedTuple):
    """A step's inputs with its plan."""

    inputs: PagedInputs
    plan: AttentionPlan


def make_step(heads: Heads, query_lens: list[int], seq_lens: list[int], device: torch.device) -> Planned:
    """Sequences over blocks in random order, in bfloat16."""
    blocks = [-(-seq_len // BLOCK_SIZE) for seq_len in seq_lens]
    order, tables, first = torch.randperm(sum(blocks), device=device), [], 0
    for count in blocks:
        row = order[first : first + count]
        tables.append(torch.nn.functional.pad(row, (0, max(blocks) - count)))
        first += count
    shape = (sum(blocks), BLOCK_SIZE, heads.num_kv_heads, heads.head_dim)
    inputs = PagedInputs(
        _random((sum(query_lens), heads.num_q_heads, heads.head_dim), device),
        LayerCache(_random(shape, device), _random(shape, device)),
        torch.stack(tables),
        torch.tensor([0, *query_lens], device=device).cumsum(0),
        torch.tensor(seq_lens, device=device),
    )
    return Planned(inputs, AttentionPlan(query_lens, seq_lens, device))


def _random(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device=device)
