"""The GPU backend of our own Triton kernels, which read the paged cache in place."""

import torch
from torch import Tensor

from engine.attention.paged import PagedBackend
from engine.attention.slopes import slopes_of_layers
from engine.batch import BatchTensors
from engine.kernels import triton
from engine.kernels.triton.plan import AttentionPlan, PagedInputs, ScoreOptions
from engine.models.spec import DecoderSpec
from kvcache.storage import KVStorage

MAX_HEAD_DIM = 256


class TritonBackend(PagedBackend):
    """Two launches a layer at most: sequences that decode, and those that prefill."""

    name = "triton"
    grows_with_context = False
    is_graphable = True

    def __init__(self, spec: DecoderSpec, storage: KVStorage) -> None:
        super().__init__(spec, storage)
        self._attend = triton.load_attend()
        self._plan = AttentionPlan([], [], self._device)
        self._slopes = slopes_of_layers(spec, self._device)

    @staticmethod
    def objections(
        spec: DecoderSpec, dtype: torch.dtype, device: torch.device, kv_cache_dtype: torch.dtype, block_size: int
    ) -> list[str]:
        """See AttentionBackend.objections. Any block_size will do."""
        widest = max(max(layer.k_head_dim, layer.v_head_dim) for layer in spec.layers)
        reasons = [f"head_dim {widest} is over {MAX_HEAD_DIM}"] if widest > MAX_HEAD_DIM else []
        return reasons + triton.objections(device, dtype) + triton.kv_objections(device, dtype, kv_cache_dtype)

    def plan(self, batch: BatchTensors) -> None:
        """Tell the sequences that decode from the others, from counts on the host."""
        super().plan(batch)
        self._plan = AttentionPlan(batch.query_lens, batch.seq_lens_list, self._device)

    def forward(self, layer_idx: int, q: Tensor, sinks: Tensor | None = None) -> Tensor:
        """See AttentionBackend.forward.

        Raises:
            RuntimeError: no step is planned.
        """
        batch, layer = self._planned(), self._spec.layers[layer_idx]
        tables = (self._block_table(layer_idx), batch.cu_seqlens_q, batch.seq_lens)
        out = self._attend(
            PagedInputs(q, self._caches[layer_idx], *tables),
            ScoreOptions(layer.softmax_scale, layer.sliding_window, layer.softcap, self._slopes[layer_idx], sinks),
            self._plan,
        )
        return out.flatten(1)
