"""The CPU backend: native kernels that read the paged cache in place."""

import torch
from torch import Tensor

from engine.attention.slopes import slopes_of_layers
from engine.batch import BatchTensors
from engine.kernels import cpu
from engine.kernels.base import PagedStep
from engine.kernels.cpu.attention import Scoring, Tables, paged_attention, store_kv
from engine.models.spec import DecoderSpec
from kvcache.storage import EIGHT_BIT_DTYPES, KVStorage


class CpuBackend:
    """One native call a layer for all sequences of the step."""

    name = "cpu"
    grows_with_context = False
    is_graphable = False

    def __init__(self, spec: DecoderSpec, storage: KVStorage) -> None:
        self._spec = spec
        self._caches = [storage.layer(layer_idx) for layer_idx in range(spec.num_layers)]
        self._groups = storage.geometry.group_indices
        self._num_threads = torch.get_num_threads()
        self._slopes = slopes_of_layers(spec, torch.device("cpu"))
        self._batch: BatchTensors | None = None

    @staticmethod
    def objections(
        spec: DecoderSpec, dtype: torch.dtype, device: torch.device, kv_cache_dtype: torch.dtype, block_size: int
    ) -> list[str]:
        """See AttentionBackend.objections. Any model and block_size will do."""
        reasons = cpu.objections(device, dtype)
        if kv_cache_dtype is not dtype and kv_cache_dtype not in EIGHT_BIT_DTYPES:
            reasons.append(f"a KV cache of {kv_cache_dtype} under {dtype} is not in the native kernels")
        return reasons

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
        tables = (batch.slot_mapping, batch.block_tables, batch.cu_seqlens_q, batch.seq_lens)
        return PagedStep(self._caches, self._groups, *tables)

    def forward(self, layer_idx: int, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None) -> Tensor:
        """See AttentionBackend.forward.

        Raises:
            RuntimeError: no step is planned.
        """
        batch, layer = self._planned(), self._spec.layers[layer_idx]
        cache, group = self._caches[layer_idx], self._groups[layer_idx]
        scoring = Scoring(layer.softmax_scale, layer.sliding_window, layer.softcap, self._slopes[layer_idx], sinks)
        tables = Tables(batch.block_tables[group], batch.cu_seqlens_q, batch.seq_lens)
        store_kv(k, v, cache, batch.slot_mapping[group], self._num_threads)
        return paged_attention(q, cache, tables, scoring, self._num_threads).flatten(1)

    def _planned(self) -> BatchTensors:
        if self._batch is None:
            raise RuntimeError("the backend was asked to run before it planned a step")
        return self._batch
