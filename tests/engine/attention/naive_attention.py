"""Attention token by token, head by head, in float64: nothing in it is clever, so everything else is held against it."""

from typing import NamedTuple

import torch
from torch import Tensor

from kvcache.storage import LayerCache


class Shape(NamedTuple):
    """Heads and cache of one case."""

    num_q_heads: int = 6
    num_kv_heads: int = 2
    k_head_dim: int = 16
    v_head_dim: int = 16
    block_size: int = 4


class Case(NamedTuple):
    """A ragged batch over a paged cache."""

    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    block_tables: Tensor
    cu_seqlens_q: Tensor
    seq_lens: Tensor

    @property
    def cache(self) -> LayerCache:
        """Keys and values as kernels take them."""
        return LayerCache(self.k_cache, self.v_cache)


def make_case(
    shape: Shape, query_lens: list[int], seq_lens: list[int], dtype: torch.dtype, *, unused: float = float("nan")
) -> Case:
    """Random numbers; blocks in random order with holes between them; `unused` in every slot that holds no token."""
    torch.manual_seed(0)
    needed = [-(-seq_len // shape.block_size) for seq_len in seq_lens]
    num_blocks = 2 * sum(needed) + 3
    order = torch.randperm(num_blocks)
    tables = torch.zeros(len(seq_lens), max(needed) + 1, dtype=torch.int64)
    caches = [
        torch.full((num_blocks * shape.block_size, shape.num_kv_heads, width), unused, dtype=dtype)
        for width in (shape.k_head_dim, shape.v_head_dim)
    ]
    for seq, (count, seq_len) in enumerate(zip(needed, seq_lens, strict=True)):
        blocks, order = order[:count], order[count:]
        tables[seq, :count] = blocks
        slots = (blocks.unsqueeze(1) * shape.block_size + torch.arange(shape.block_size)).flatten()[:seq_len]
        for cache in caches:
            cache[slots] = torch.randn(seq_len, *cache.shape[1:]).to(dtype)
    q = torch.randn(sum(query_lens), shape.num_q_heads, shape.k_head_dim).to(dtype)
    k_cache, v_cache = (cache.unflatten(0, (num_blocks, shape.block_size)) for cache in caches)
    cu_seqlens_q = torch.tensor([0, *query_lens]).cumsum(0)
    return Case(q, k_cache, v_cache, tables, cu_seqlens_q, torch.tensor(seq_lens))


def naive_attention(case: Case, softmax_scale: float, window: int | None = None) -> Tensor:
    """[num_tokens, num_q_heads, v_head_dim] float64."""
    num_q_per_kv = case.q.shape[1] // case.k_cache.shape[2]
    block_size = case.k_cache.shape[1]
    out = torch.full((*case.q.shape[:2], case.v_cache.shape[-1]), torch.nan, dtype=torch.float64)
    for seq, seq_len in enumerate(case.seq_lens.tolist()):
        start, stop = case.cu_seqlens_q[seq : seq + 2].tolist()
        slots = [(int(case.block_tables[seq, p // block_size]), p % block_size) for p in range(seq_len)]
        keys = torch.stack([case.k_cache[block, offset] for block, offset in slots]).double()
        values = torch.stack([case.v_cache[block, offset] for block, offset in slots]).double()
        for token in range(start, stop):
            position = seq_len - (stop - token)
            seen = slice(0 if window is None else max(0, position - window + 1), position + 1)
            for head in range(case.q.shape[1]):
                kv_head = head // num_q_per_kv
                weights = (keys[seen, kv_head] @ case.q[token, head].double() * softmax_scale).softmax(0)
                out[token, head] = weights @ values[seen, kv_head]
    return out
