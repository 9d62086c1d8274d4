"""Heads to bytes. Pure arithmetic: every KV byte that headcount allocates, reports or plans comes from here.

    bytes per token = sum over layers of  num_kv_heads * (k_head_dim + v_head_dim) * dtype_bytes

For SmolLM2-135M in bfloat16 that is 30 * 3 * (64 + 64) * 2 = 23,040.
"""

import enum
from typing import Self

import msgspec


class AttentionType(enum.StrEnum):
    """How many query heads share one key/value head."""

    MHA = "mha"
    """Multi-head: every query head has its own (Vaswani et al. 2017)."""
    GQA = "gqa"
    """Grouped-query: a group of query heads shares one (Ainslie et al. 2023)."""
    MQA = "mqa"
    """Multi-query: all query heads share the only one (Shazeer 2019)."""
    MIXED = "mixed"
    """Layers differ."""


class LayerGeometry(msgspec.Struct, frozen=True):
    """The heads of one attention layer.

    Raises:
        ValueError: a number is less than 1, or the query heads cannot be divided among the KV heads.
    """

    num_q_heads: int
    num_kv_heads: int
    k_head_dim: int
    v_head_dim: int

    def __post_init__(self) -> None:
        for name in ("num_q_heads", "num_kv_heads", "k_head_dim", "v_head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_q_heads % self.num_kv_heads:
            raise ValueError(
                f"num_q_heads must be a multiple of num_kv_heads, got {self.num_q_heads} and {self.num_kv_heads}"
            )

    @property
    def attention_type(self) -> AttentionType:
        """MHA, GQA or MQA; a single query head with its own key/value head counts as MHA."""
        if self.num_kv_heads == self.num_q_heads:
            return AttentionType.MHA
        return AttentionType.MQA if self.num_kv_heads == 1 else AttentionType.GQA

    @property
    def elements_per_token(self) -> int:
        """Numbers kept for one token: keys and values of every KV head."""
        return self.num_kv_heads * (self.k_head_dim + self.v_head_dim)


class KVGeometry(msgspec.Struct, frozen=True):
    """The KV cache of a model, down to the byte.

    Attributes:
        layers: one entry per attention layer; layers may differ.
        dtype_bytes: bytes of one cached number (2 for bfloat16).
        block_size: tokens in a block.

    Raises:
        ValueError: no layers, or a size of less than 1.
    """

    layers: tuple[LayerGeometry, ...]
    dtype_bytes: int
    block_size: int

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("layers must name at least one attention layer, got none")
        for name in ("dtype_bytes", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def attention_type(self) -> AttentionType:
        """The type that all layers share, or MIXED."""
        types = {layer.attention_type for layer in self.layers}
        return types.pop() if len(types) == 1 else AttentionType.MIXED

    @property
    def bytes_per_token(self) -> int:
        """KV bytes of one token over all layers."""
        return sum(layer.elements_per_token for layer in self.layers) * self.dtype_bytes

    @property
    def bytes_per_block(self) -> int:
        """KV bytes of one block over all layers."""
        return self.bytes_per_token * self.block_size

    def num_blocks(self, num_tokens: int) -> int:
        """Blocks that `num_tokens` tokens of one request occupy: 17 tokens in blocks of 16 take 2."""
        return -(-num_tokens // self.block_size)

    def bytes_per_request(self, num_tokens: int) -> int:
        """Bytes of the blocks that one request of `num_tokens` tokens occupies."""
        return self.num_blocks(num_tokens) * self.bytes_per_block

    def num_blocks_in(self, memory_bytes: int) -> int:
        """Whole blocks that fit in `memory_bytes`."""
        return max(0, memory_bytes) // self.bytes_per_block

    def num_requests_in(self, memory_bytes: int, num_tokens: int) -> int:
        """Requests of `num_tokens` tokens each that fit in `memory_bytes` at the same time."""
        return self.num_blocks_in(memory_bytes) // max(1, self.num_blocks(num_tokens))

    def longest_context_in(self, memory_bytes: int) -> int:
        """Tokens of the longest single request that fits in `memory_bytes`: whole blocks only."""
        return self.num_blocks_in(memory_bytes) * self.block_size

    def with_num_kv_heads(self, num_kv_heads: int) -> Self:
        """The same model with another number of KV heads in every layer.

        Raises:
            ValueError: a layer's query heads cannot be divided into that many groups.
        """
        layers = tuple(msgspec.structs.replace(layer, num_kv_heads=num_kv_heads) for layer in self.layers)
        return msgspec.structs.replace(self, layers=layers)

    def what_if(self) -> list[Self]:
        """One geometry per number of KV heads that every layer's query heads allow, most heads (MHA) first.

        For 9 query heads: 9, 3 and 1 KV heads.
        """
        fewest = min(layer.num_q_heads for layer in self.layers)
        allowed = [n for n in range(fewest, 0, -1) if all(layer.num_q_heads % n == 0 for layer in self.layers)]
        return [self.with_num_kv_heads(n) for n in allowed]
