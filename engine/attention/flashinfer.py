"""The optional GPU backend of the FlashInfer library, which reads the paged cache through lists of pages (Ye et al. 2025)."""

import importlib
import importlib.util
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.attention.paged import PagedBackend
from engine.attention.varlen import DTYPES, device_objections
from engine.batch import BatchTensors
from engine.models.spec import DecoderSpec
from kvcache.storage import KVStorage

HEAD_DIMS = (64, 128, 256)
"""What its FlashAttention-2 kernels are made for."""

WORKSPACE_BYTES = 128 << 20
"""Of the sums of keys that are split: what its documentation asks for."""


class Kind(NamedTuple):
    """Layers that are planned together.

    Attributes:
        group: which block tables are theirs.
        heads: query heads and key/value heads.
        head_dim: of keys and values.
        softmax_scale: multiplies every score.
        sliding_window: tokens that a token sees, itself included.
        softcap: bounds the scores.
    """

    group: int
    heads: tuple[int, int]
    head_dim: int
    softmax_scale: float
    sliding_window: int | None
    softcap: float | None


class Pages(NamedTuple):
    """The blocks of a step's sequences as the library wants them.

    Attributes:
        starts: [num_seqs + 1] int32 on the host: where each sequence's blocks begin.
        places: [num_pages] int64 on the device: which numbers of a flat block table are blocks.
        last_lens: [num_seqs] int32 on the host: tokens in the last block of each.
    """

    starts: Tensor
    places: Tensor
    last_lens: Tensor


class FlashInferBackend(PagedBackend):
    """One call a layer for all sequences of the step."""

    name = "flashinfer"
    grows_with_context = False
    is_graphable = False  # it plans on the host

    def __init__(self, spec: DecoderSpec, storage: KVStorage) -> None:
        super().__init__(spec, storage)
        self._block_size = storage.geometry.block_size
        self._kinds = [
            Kind(
                group,
                (layer.num_q_heads, layer.num_kv_heads),
                layer.k_head_dim,
                layer.softmax_scale,
                layer.sliding_window,
                layer.softcap,
            )
            for group, layer in zip(self._groups, spec.layers, strict=True)
        ]
        self._dtype = self._caches[0].k.dtype
        self._wrappers: dict[Kind, Any] = {}

    @staticmethod
    def objections(
        spec: DecoderSpec, dtype: torch.dtype, device: torch.device, kv_cache_dtype: torch.dtype, block_size: int
    ) -> list[str]:
        """See AttentionBackend.objections. Any block_size will do."""
        reasons = [*model_objections(spec), *device_objections(device)]
        if dtype not in DTYPES:
            reasons.append(f"dtype {dtype} is none of {', '.join(map(str, DTYPES))}")
        if kv_cache_dtype is not dtype:
            reasons.append(f"a KV cache of {kv_cache_dtype} under {dtype} has no scales in FlashInfer")
        if importlib.util.find_spec("flashinfer") is None:
            reasons.append("the package flashinfer-python is not installed")
        return reasons

    def plan(self, batch: BatchTensors) -> None:
        """Plan once for all layers of a kind.

        The buffers are of the step, not of the backend: so they are part of what the rehearsal measures, and PyTorch's
        allocator has them ready for the next step.
        """
        super().plan(batch)
        pages = list_pages(batch, self._block_size, self._device)
        workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=self._device)
        self._wrappers = {kind: self._plan_kind(kind, batch, pages, workspace) for kind in set(self._kinds)}

    def forward(self, layer_idx: int, q: Tensor, sinks: Tensor | None = None) -> Tensor:
        """See AttentionBackend.forward.

        Raises:
            RuntimeError: no step is planned.
        """
        self._planned()
        cache = self._caches[layer_idx]
        out: Tensor = self._wrappers[self._kinds[layer_idx]].run(q, (cache.k, cache.v))
        return out.flatten(1)

    def _plan_kind(self, kind: Kind, batch: BatchTensors, pages: Pages, workspace: Tensor) -> Any:
        wrapper = load_wrapper()(workspace, "NHD")
        wrapper.plan(
            qo_indptr=torch.tensor([0, *batch.query_lens], dtype=torch.int32).cumsum(0, dtype=torch.int32),
            paged_kv_indptr=pages.starts,
            paged_kv_indices=batch.block_tables[kind.group].flatten()[pages.places].to(torch.int32),
            paged_kv_last_page_len=pages.last_lens,
            num_qo_heads=kind.heads[0],
            num_kv_heads=kind.heads[1],
            head_dim_qk=kind.head_dim,
            page_size=self._block_size,
            causal=True,
            sm_scale=kind.softmax_scale,
            window_left=-1 if kind.sliding_window is None else kind.sliding_window - 1,
            logits_soft_cap=kind.softcap,
            q_data_type=self._dtype,
            kv_data_type=self._dtype,
        )
        return wrapper


def load_wrapper() -> Any:
    """flashinfer.BatchPrefillWithPagedKVCacheWrapper, which takes sequences that decode as well.

    Raises:
        ImportError: FlashInfer is not installed.
    """
    module = importlib.import_module("flashinfer")  # slow to import and not everywhere

    return module.BatchPrefillWithPagedKVCacheWrapper


def model_objections(spec: DecoderSpec) -> list[str]:
    """What of a model's attention the backend does not have."""
    dims = {dim for layer in spec.layers for dim in (layer.k_head_dim, layer.v_head_dim)}
    reasons = [f"head_dim {dim} is none of {', '.join(map(str, HEAD_DIMS))}" for dim in sorted(dims - {*HEAD_DIMS})]
    if any(layer.k_head_dim != layer.v_head_dim for layer in spec.layers):
        reasons.append("keys and values differ in width")
    if any(layer.alibi_slopes is not None for layer in spec.layers):
        reasons.append("ALiBi with a model's own slopes is not in FlashInfer")
    if any(layer.has_sinks for layer in spec.layers):
        reasons.append("attention sinks are not in all of FlashInfer's kernels")
    return reasons


def list_pages(batch: BatchTensors, block_size: int, device: torch.device) -> Pages:
    """The blocks that sequences have tokens in, from counts on the host.

    Worked example: seq_lens [5, 2] in blocks of 4 and tables of 3 blocks: starts [0, 2, 3], places [0, 1, 3], last_lens
    [1, 2].
    """
    seq_lens = torch.tensor(batch.seq_lens_list)
    counts = (seq_lens + block_size - 1) // block_size
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    rows = torch.arange(len(counts)) * batch.block_tables.shape[2]
    places = torch.arange(int(starts[-1])) + (rows - starts[:-1]).repeat_interleave(counts)
    last_lens = seq_lens - (counts - 1) * block_size
    return Pages(starts.to(torch.int32), places.to(device, non_blocking=True), last_lens.to(torch.int32))
