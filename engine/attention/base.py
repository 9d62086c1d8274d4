"""What an attention backend is: it plans once a step and runs once a layer."""

from typing import Protocol

import torch
from torch import Tensor

from engine.batch import BatchTensors
from engine.kernels.base import KVTarget, PagedStep
from engine.models.spec import DecoderSpec
from kvcache.storage import KVStorage


class AttentionBackend(Protocol):
    """Says where this step's keys and values belong in the cache, and attends over it."""

    name: str
    grows_with_context: bool
    """Its scratch is larger for longer contexts: the largest step is measured at the longest one."""
    is_graphable: bool
    """Steps in which every sequence decodes can be graphs (engine/graphs.py): once planned for some tensors and the longest
    context, `forward` does for whatever these tensors hold later. It waits for nothing on the device, and reads no
    further in a block table than seq_lens say."""

    def __init__(self, spec: DecoderSpec, storage: KVStorage) -> None: ...

    @staticmethod
    def objections(
        spec: DecoderSpec, dtype: torch.dtype, device: torch.device, kv_cache_dtype: torch.dtype, block_size: int
    ) -> list[str]:
        """All reasons why this backend cannot run the model there; empty: it can.

        Args:
            spec: the model.
            dtype: of its activations.
            device: where it runs.
            kv_cache_dtype: of cached keys and values: `dtype`, or one of 8 bits.
            block_size: tokens in a block.
        """
        ...

    def plan(self, batch: BatchTensors) -> None:
        """Prepare what every layer of this step shares."""
        ...

    @property
    def paged_step(self) -> PagedStep | None:
        """The cache and the planned step's tables, for kernels that run all layers at once; None: layer by layer."""
        ...

    def kv_target(self, layer_idx: int) -> KVTarget:
        """Where the layer writes keys and values of the step's tokens, before it calls `forward`."""
        ...

    def forward(self, layer_idx: int, q: Tensor, sinks: Tensor | None = None) -> Tensor:
        """Attend over the layer's cache, which holds the step's own keys and values by now.

        Args:
            layer_idx: which layer's cache.
            q: [num_tokens, num_q_heads, k_head_dim].
            sinks: [num_q_heads], where the layer has them.

        Returns:
            [num_tokens, num_q_heads * v_head_dim].
        """
        ...
