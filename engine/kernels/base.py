"""What a set of kernels is: the arithmetic that layers and attention backends are made of."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.models.spec import Activation, DecoderSpec
from kvcache.storage import LayerCache


class PagedStep(NamedTuple):
    """The paged cache and a step's tables.

    Attributes:
        caches: one a layer, all of the same formats.
        groups: of each layer: which row of the next two is its own.
        slot_mapping: [num_groups, num_tokens] int64.
        block_tables: [num_groups, num_seqs, max_blocks] int64.
        cu_seqlens_q: [num_seqs + 1] int64.
        seq_lens: [num_seqs] int64.
    """

    caches: list[LayerCache]
    groups: list[int]
    slot_mapping: Tensor
    block_tables: Tensor
    cu_seqlens_q: Tensor
    seq_lens: Tensor


class KVTarget(NamedTuple):
    """Where the keys and values of a step's tokens belong in one layer.

    Attributes:
        cache: of the layer.
        slot_mapping: [num_tokens] int64, block_id * block_size + offset.
    """

    cache: LayerCache
    slot_mapping: Tensor


class Rotation(NamedTuple):
    """How the heads of each token are turned; see reference.apply_rope.

    Attributes:
        cos: [num_tokens, rotary_dim / 2] float32, or the heads' dtype where that is wider.
        sin: as cos.
        is_interleaved: which dimensions are a pair.
    """

    cos: Tensor
    sin: Tensor
    is_interleaved: bool = False


class HeadNorm(NamedTuple):
    """The RMSNorm of queries and keys, head by head; see reference.rms_norm.

    Attributes:
        q_weight: [k_head_dim], or [num_q_heads, k_head_dim]; None: 1.
        k_weight: [k_head_dim], or [num_kv_heads, k_head_dim]; None: 1.
        eps: added to the mean square.
        weight_offset: added to the weights.
    """

    q_weight: Tensor | None
    k_weight: Tensor | None
    eps: float
    weight_offset: float = 0.0


class CompiledLayers(Protocol):
    """All layers of a decoder as one kernel."""

    def __call__(self, x: Tensor, angles: tuple[Tensor, Tensor] | None, paged: PagedStep) -> Tensor:
        """Run them. Side effects: x may be changed, the KV of the step's tokens is in the cache.

        Args:
            x: [num_tokens, hidden_size].
            angles: cos and sin, each [num_tokens, rotary_dim / 2], where the model has rotary embedding.
            paged: where the cache is.

        Returns:
            [num_tokens, hidden_size].
        """
        ...


class RopeAndStore(Protocol):
    """What lies between the projection of queries, keys and values and the attention, as one kernel."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, target: KVTarget, rotation: Rotation, *, norm: HeadNorm | None = None
    ) -> Tensor:
        """Normalise and rotate queries and keys; write keys and values into their slots. q and k may be changed.

        Args:
            q: [num_tokens, num_q_heads, k_head_dim].
            k: [num_tokens, num_kv_heads, k_head_dim].
            v: [num_tokens, num_kv_heads, v_head_dim].
            target: the cache, changed in place.
            rotation: comes second.
            norm: comes first; None: none.

        Returns:
            The queries, of the shape of q.
        """
        ...


class SamplingKernels(Protocol):
    """Draws of tokens; engine/kernels/sampling.py says what each one computes."""

    def most_probable(self, logits: Tensor) -> Tensor:
        """The most probable token of each row."""
        ...

    def draw(self, logits: Tensor, temperature: Tensor, uniform: Tensor) -> Tensor:
        """A random token for each row."""
        ...

    def draw_truncated(
        self, logits: Tensor, temperature: Tensor, uniform: Tensor, *, top_k: Tensor, top_p: Tensor, min_p: Tensor
    ) -> Tensor:
        """A random token for each row, among the most probable ones."""
        ...


class Kernels(Protocol):
    """Kernels for one device and dtype; engine/kernels/reference.py says what each one computes, shape by shape."""

    @property
    def name(self) -> str:
        """`reference`, `cpu`, ..."""
        ...

    def pack(self, weight: Tensor) -> None:
        """Bring a weight into the order that `linear` and `gather_rows` read, in place; once only."""
        ...

    def gather_rows(self, weight: Tensor, row_ids: Tensor) -> Tensor:
        """Rows of a weight that `pack` had."""
        ...

    @property
    def has_graphable_experts(self) -> bool:
        """Whether `grouped_linear` goes by its counts on the device, without reading them on the host."""
        ...

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        is_wide: bool = False,
    ) -> Tensor:
        """X W^T (+ bias) (+ residual), of a weight that `pack` had."""
        ...

    def grouped_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, counts: Tensor) -> Tensor:
        """Rows of x in groups, each times the weight of its group."""
        ...

    def quantize_weight(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Round a weight to 8-bit integers and scales."""
        ...

    def pack_int8(self, weight: Tensor, scale: Tensor, depth: int) -> None:
        """Bring a weight of 8-bit integers into the order that the following read, in place; once only."""
        ...

    def gather_rows_int8(
        self, weight: Tensor, scale: Tensor, row_ids: Tensor, depth: int, dtype: torch.dtype
    ) -> Tensor:
        """Rows of a weight that `pack_int8` had."""
        ...

    def linear_int8(
        self,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        is_wide: bool = False,
    ) -> Tensor:
        """`linear` with a weight that `pack_int8` had."""
        ...

    def grouped_linear_int8(
        self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, counts: Tensor
    ) -> Tensor:
        """`grouped_linear` with weights that `pack_int8` had."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor | None, eps: float, *, weight_offset: float = 0.0) -> Tensor:
        """X / rms(x) * (weight + weight_offset)."""
        ...

    def layer_norm(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, *, weight_offset: float = 0.0
    ) -> Tensor:
        """(x - mean) / std * (weight + weight_offset) + bias."""
        ...

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        """activation(x)."""
        ...

    def activate_and_multiply(self, gate_up: Tensor, activation: Activation) -> Tensor:
        """activation(gate) * up."""
        ...

    def apply_rope(self, x: Tensor, cos: Tensor, sin: Tensor, *, is_interleaved: bool = False) -> None:
        """Rotate the heads in place."""
        ...

    def store_kv(self, k: Tensor, v: Tensor, cache: LayerCache, slot_mapping: Tensor) -> None:
        """Write keys and values into their slots, as 8-bit numbers and scales where the cache has those."""
        ...

    @property
    def rope_and_store(self) -> RopeAndStore | None:
        """`rms_norm`, `apply_rope` and `store_kv` as one kernel; None: these kernels have none."""
        ...

    def paged_attention(
        self,
        q: Tensor,
        cache: LayerCache,
        block_tables: Tensor,
        *,
        cu_seqlens_q: Tensor,
        seq_lens: Tensor,
        softmax_scale: float,
        sliding_window: int | None = None,
        softcap: float | None = None,
        alibi_slopes: Tensor | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Causal attention of a ragged batch over the paged cache."""
        ...

    def compile_layers(self, spec: DecoderSpec, parameters: Mapping[str, Tensor]) -> CompiledLayers | None:
        """The decoder's layers as one kernel; None where these kernels have none for this model."""
        ...
