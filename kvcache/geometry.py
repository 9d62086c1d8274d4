"""Heads to bytes. Pure arithmetic: every KV byte that headcount allocates, reports or plans comes from here.

    bytes per token = sum over layers of  num_kv_heads * ((k_head_dim + v_head_dim) * dtype_bytes + 2 * scale_bytes)

For SmolLM2-135M in bfloat16, which needs no scales, that is 30 * 3 * (64 + 64) * 2 = 23,040; in 8 bits with scales of
2 bytes 30 * 3 * (64 + 64 + 2 * 2) = 11,880.

Layers with a sliding window need a token only until the window has passed it. Layers are therefore put in groups, each
with a block table of its own, over one pool of equal blocks (engine docs: docs/kv-cache.md): a block holds block_size
tokens of the layers of one group.
"""

import enum
import functools
from typing import Self

import msgspec

from kvcache.layer_groups import LayerGroup, group_layers

LONGEST_CONTEXT = 1 << 40
"""Where every layer has a window, a request never stops fitting: more tokens than this are not asked about."""


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

    Attributes:
        sliding_window: tokens that a token sees, itself among them; None: all.

    Raises:
        ValueError: a number is less than 1, or the query heads cannot be divided among the KV heads.
    """

    num_q_heads: int
    num_kv_heads: int
    k_head_dim: int
    v_head_dim: int
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_q_heads", "num_kv_heads", "k_head_dim", "v_head_dim", "sliding_window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
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

    def per_rank(self, tensor_parallel: int) -> "LayerGeometry":
        """The heads that one of so many devices holds: with fewer KV heads than devices, each holds a copy of one.

        Raises:
            ValueError: the query heads cannot be divided among the devices, or KV heads neither divide nor are divided.
        """
        if self.num_q_heads % tensor_parallel:
            raise ValueError(f"{self.num_q_heads} query heads cannot be divided among {tensor_parallel} devices")
        if self.num_kv_heads % tensor_parallel and tensor_parallel % self.num_kv_heads:
            raise ValueError(f"{self.num_kv_heads} key/value heads cannot be spread over {tensor_parallel} devices")
        num_kv_heads = max(1, self.num_kv_heads // tensor_parallel)
        return msgspec.structs.replace(self, num_q_heads=self.num_q_heads // tensor_parallel, num_kv_heads=num_kv_heads)


class KVGeometry(msgspec.Struct, frozen=True):
    """The KV cache of a model, down to the byte.

    Attributes:
        layers: one entry per attention layer; layers may differ.
        dtype_bytes: bytes of one cached number (2 for bfloat16).
        block_size: tokens in a block.
        scale_bytes: bytes of the scale that a head's key, and one that its value has, where the cache is 8 bits wide.

    Raises:
        ValueError: no layers, or a size of less than 1.
    """

    layers: tuple[LayerGeometry, ...]
    dtype_bytes: int
    block_size: int
    scale_bytes: int = 0

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("layers must name at least one attention layer, got none")
        for name in ("dtype_bytes", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.scale_bytes < 0:
            raise ValueError(f"scale_bytes must be at least 0, got {self.scale_bytes}")

    @property
    def attention_type(self) -> AttentionType:
        """The type that all layers share, or MIXED."""
        types = {layer.attention_type for layer in self.layers}
        return types.pop() if len(types) == 1 else AttentionType.MIXED

    @property
    def groups(self) -> tuple[LayerGroup, ...]:
        """The layers by what they share a block table with."""
        return _groups_of(self.layers)

    def layer_bytes_per_token(self, layer_idx: int) -> int:
        """KV bytes of one token in one layer."""
        layer = self.layers[layer_idx]
        return layer.elements_per_token * self.dtype_bytes + 2 * layer.num_kv_heads * self.scale_bytes

    @property
    def bytes_per_token(self) -> int:
        """KV bytes of one token in all layers: what the newest token of a request takes."""
        return sum(map(self.layer_bytes_per_token, range(len(self.layers))))

    @property
    def bytes_per_old_token(self) -> int:
        """KV bytes of a token that every window has passed: what a long context goes on taking."""
        full = (group.layer_indices for group in self.groups if group.sliding_window is None)
        return sum(self.layer_bytes_per_token(layer_idx) for layer_indices in full for layer_idx in layer_indices)

    @property
    def bytes_per_block(self) -> int:
        """Bytes of a block: block_size tokens in the layers of one group.

        All groups' blocks are equal; where a group has a layer less than others, its place is part of the block too.
        """
        largest = max(self.groups, key=lambda group: len(group.layer_indices))
        return sum(map(self.layer_bytes_per_token, largest.layer_indices)) * self.block_size

    @property
    def group_indices(self) -> list[int]:
        """Which of `groups` each layer belongs to."""
        found = {idx: number for number, group in enumerate(self.groups) for idx in group.layer_indices}
        return [found[idx] for idx in range(len(self.layers))]

    @property
    def bytes_by_window(self) -> dict[int | None, int]:
        """Sliding window (None: no window) -> KV bytes of a token in the layers that have it."""
        found: dict[int | None, int] = {}
        for layer_idx, layer in enumerate(self.layers):
            found[layer.sliding_window] = found.get(layer.sliding_window, 0) + self.layer_bytes_per_token(layer_idx)
        return found

    def num_blocks(self, num_tokens: int, num_scheduled_tokens: int = 1) -> int:
        """Blocks that a request occupies at most until it holds `num_tokens` tokens.

        17 tokens in blocks of 16 take 2 in a model of one group.

        Args:
            num_tokens: of the request.
            num_scheduled_tokens: that a step computes at most: windows must hold them all.
        """
        return sum(group.num_blocks(num_tokens, self.block_size, num_scheduled_tokens) for group in self.groups)

    def bytes_per_request(self, num_tokens: int) -> int:
        """Bytes of the blocks that one request of `num_tokens` tokens occupies."""
        return self.num_blocks(num_tokens) * self.bytes_per_block

    def num_blocks_in(self, memory_bytes: int) -> int:
        """Whole blocks that fit in `memory_bytes`."""
        return max(0, memory_bytes) // self.bytes_per_block

    def num_requests_in(self, memory_bytes: int, num_tokens: int) -> int:
        """Requests of `num_tokens` tokens each that fit in `memory_bytes` at the same time."""
        return self.num_blocks_in(memory_bytes) // max(1, self.num_blocks(num_tokens))

    def num_tokens_in(self, memory_bytes: int, num_tokens: int) -> int:
        """Tokens that fit in `memory_bytes` as requests of `num_tokens` tokens each, the last one a part.

        Never blocks * block_size where layers have windows: what a token takes depends on how long its request is.
        """
        num_blocks, needed = self.num_blocks_in(memory_bytes), self.num_blocks(num_tokens)
        if len(self.groups) == 1 and self.groups[0].sliding_window is None:
            return num_blocks * self.block_size
        return num_blocks * num_tokens // max(1, needed)

    def longest_context_in(self, memory_bytes: int, num_scheduled_tokens: int = 1) -> int:
        """Tokens of the longest single request that fits in `memory_bytes`: whole blocks only; see num_blocks."""
        num_blocks = self.num_blocks_in(memory_bytes)
        shortest, longest = 0, LONGEST_CONTEXT // self.block_size
        while shortest < longest:
            middle = (shortest + longest + 1) // 2
            fits = self.num_blocks(middle * self.block_size, num_scheduled_tokens) <= num_blocks
            shortest, longest = (middle, longest) if fits else (shortest, middle - 1)
        return shortest * self.block_size

    def with_num_kv_heads(self, num_kv_heads: int) -> Self:
        """The same model with another number of KV heads in every layer.

        Raises:
            ValueError: a layer's query heads cannot be divided into that many groups.
        """
        layers = tuple(msgspec.structs.replace(layer, num_kv_heads=num_kv_heads) for layer in self.layers)
        return msgspec.structs.replace(self, layers=layers)

    def as_mha(self) -> Self:
        """The same model with a KV head for every query head, layer by layer."""
        layers = tuple(msgspec.structs.replace(layer, num_kv_heads=layer.num_q_heads) for layer in self.layers)
        return msgspec.structs.replace(self, layers=layers)

    def with_format(self, dtype_bytes: int, scale_bytes: int) -> Self:
        """The same model with keys and values in another format."""
        return msgspec.structs.replace(self, dtype_bytes=dtype_bytes, scale_bytes=scale_bytes)

    def per_rank(self, tensor_parallel: int) -> Self:
        """What one of so many devices holds.

        Raises:
            ValueError: the heads cannot be divided among them.
        """
        layers = tuple(layer.per_rank(tensor_parallel) for layer in self.layers)
        return msgspec.structs.replace(self, layers=layers)

    def what_if(self) -> list[Self]:
        """One geometry per number of KV heads that every layer's query heads allow, most heads (MHA) first.

        For 9 query heads: 9, 3 and 1 KV heads.
        """
        fewest = min(layer.num_q_heads for layer in self.layers)
        allowed = [n for n in range(fewest, 0, -1) if all(layer.num_q_heads % n == 0 for layer in self.layers)]
        return [self.with_num_kv_heads(n) for n in allowed]


@functools.lru_cache(maxsize=64)
def _groups_of(layers: tuple[LayerGeometry, ...]) -> tuple[LayerGroup, ...]:
    shapes = [(layer.num_kv_heads, layer.k_head_dim, layer.v_head_dim) for layer in layers]
    return group_layers(shapes, [layer.sliding_window for layer in layers])
