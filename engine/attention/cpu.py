"""The CPU backend: native kernels that read the paged cache in place."""

import torch
from torch import Tensor

from engine.batch import BatchTensors
from engine.kernels import cpu
from engine.kernels.base import PagedStep
from engine.kernels.coverage import attention_objections
from engine.models.spec import DecoderSpec
from kvcache.storage import KVStorage


class CpuBackend:
    """One native call a layer for all sequences of the step."""

    name = "cpu"
    grows_with_context = False
    is_graphable = False

    def __init__(self, spec: DecoderSpec, storage: KVStorage) -> None:
        self._spec = spec
        self._caches = [storage.layer(layer_idx) for layer_idx in range(spec.num_layers)]
        self._k_caches, self._v_caches = [cache.k for cache in self._caches], [cache.v for cache in self._caches]
        self._groups = storage.geometry.group_indices
        self._kernels = cpu.CpuKernels(self._k_caches[0].dtype)
        self._batch: BatchTensors | None = None

    @staticmethod
    def objections(
        spec: DecoderSpec, dtype: torch.dtype, device: torch.device, kv_cache_dtype: torch.dtype, block_size: int
    ) -> list[str]:
        """See AttentionBackend.objections."""
        reasons = attention_objections(spec)
        if kv_cache_dtype is not dtype:
            reasons.append(f"a KV cache of {kv_cache_dtype} under {dtype} is not in the native kernels")
        return reasons + cpu.objections(device, dtype)

    def plan(self, batch: BatchTensors) -> None:
        """Keep the step's tables; the kernel needs nothing more."""
        self._batch = batch

    @property
    def paged_step(self) -> PagedStep:
        """See AttentionBackend.paged_step.

        Raises:
            RuntimeError: no step is planned.
        """
        batch = self._planned()
        return PagedStep(
            self._k_caches,
            self._v_caches,
            self._groups,
            batch.slot_mapping,
            batch.block_tables,
            batch.cu_seqlens_q,
            batch.seq_lens,
        )

    def forward(self, layer_idx: int, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None) -> Tensor:
        """See AttentionBackend.forward.

        Raises:
            RuntimeError: no step is planned.
        """
        batch, layer = self._planned(), self._spec.layers[layer_idx]
        cache, group = self._caches[layer_idx], self._groups[layer_idx]
        self._kernels.store_kv(k, v, cache, batch.slot_mapping[group])
        out = self._kernels.paged_attention(
            q,
            cache,
            batch.block_tables[group],
            cu_seqlens_q=batch.cu_seqlens_q,
            seq_lens=batch.seq_lens,
            softmax_scale=layer.softmax_scale,
            sliding_window=layer.sliding_window,
            sinks=sinks,
        )
        return out.flatten(1)

    def _planned(self) -> BatchTensors:
        if self._batch is None:
            raise RuntimeError("the backend was asked to run before it planned a step")
        return self._batch
