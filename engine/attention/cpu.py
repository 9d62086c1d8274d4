"""The CPU backend: native kernels that read the paged cache in place."""

import torch
from torch import Tensor

from engine.attention.paged import PagedBackend
from engine.attention.slopes import slopes_of_layers
from engine.kernels import cpu
from engine.kernels.base import PagedStep
from engine.kernels.cpu.attention import Scoring, Tables, paged_attention
from engine.models.spec import DecoderSpec
from kvcache.storage import EIGHT_BIT_DTYPES, KVStorage


class CpuBackend(PagedBackend):
    """One native call a layer for all sequences of the step."""

    name = "cpu"
    grows_with_context = False
    is_graphable = False

    def __init__(self, spec: DecoderSpec, storage: KVStorage) -> None:
        super().__init__(spec, storage)
        self._num_threads = torch.get_num_threads()
        self._slopes = slopes_of_layers(spec, self._device)

    @staticmethod
    def objections(
        spec: DecoderSpec, dtype: torch.dtype, device: torch.device, kv_cache_dtype: torch.dtype, block_size: int
    ) -> list[str]:
        """See AttentionBackend.objections. Any model and block_size will do."""
        reasons = cpu.objections(device, dtype)
        if kv_cache_dtype is not dtype and kv_cache_dtype not in EIGHT_BIT_DTYPES:
            reasons.append(f"a KV cache of {kv_cache_dtype} under {dtype} is not in the native kernels")
        return reasons

    @property
    def paged_step(self) -> PagedStep:
        """See AttentionBackend.paged_step.

        Raises:
            RuntimeError: no step is planned.
        """
        batch = self._planned()
        tables = (batch.slot_mapping, batch.block_tables, batch.cu_seqlens_q, batch.seq_lens)
        return PagedStep(self._caches, self._groups, *tables)

    def forward(self, layer_idx: int, q: Tensor, sinks: Tensor | None = None) -> Tensor:
        """See AttentionBackend.forward.

        Raises:
            RuntimeError: no step is planned.
        """
        batch, layer = self._planned(), self._spec.layers[layer_idx]
        scoring = Scoring(layer.softmax_scale, layer.sliding_window, layer.softcap, self._slopes[layer_idx], sinks)
        tables = Tables(self._block_table(layer_idx), batch.cu_seqlens_q, batch.seq_lens)
        return paged_attention(q, self._caches[layer_idx], tables, scoring, self._num_threads).flatten(1)
