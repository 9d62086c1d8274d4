"""FlashInfer runs on GPUs only: how it is called is held against the reference through a stand-in."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.attention import flashinfer
from engine.attention.flashinfer import FlashInferBackend, list_pages
from engine.attention.reference import ReferenceBackend
from engine.attention.registry import DECODE, PREFILL, choose_backend
from engine.batch import build_batch
from engine.kernels import reference
from engine.models.spec import LayerSpec
from engine.request import ScheduledBatch, ScheduledRequest
from kvcache.storage import LayerCache
from tests.engine.attention.stepping import FEATURED, MLP, assert_equal_steps, make_request, spec_of, storage_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LAYERS = (
    LayerSpec(6, 2, 16, 16, softmax_scale=0.3, mlp=MLP, softcap=2.0),
    LayerSpec(6, 2, 16, 16, softmax_scale=0.3, mlp=MLP, sliding_window=9),
)
WIDE = (LayerSpec(6, 2, 64, 64, softmax_scale=0.3, mlp=MLP),)


class StandIn:
    """What FlashInfer documents of BatchPrefillWithPagedKVCacheWrapper, computed by the reference."""

    def __init__(self, workspace: Tensor, kv_layout: str) -> None:
        assert workspace.dtype is torch.uint8
        assert kv_layout == "NHD"

    def plan(
        self,
        qo_indptr: Tensor,
        paged_kv_indptr: Tensor,
        paged_kv_indices: Tensor,
        paged_kv_last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        **options: Any,
    ) -> None:
        for tensor in (qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len):
            assert tensor.dtype is torch.int32
        assert options["causal"]
        self._shape, self._options = (num_qo_heads, num_kv_heads, head_dim_qk, page_size), options
        counts = paged_kv_indptr.diff()
        self._cu_seqlens_q = qo_indptr.long()
        self._seq_lens = ((counts - 1) * page_size + paged_kv_last_page_len).long()
        pages = paged_kv_indices.long().split(counts.tolist())
        self._block_tables = torch.nn.utils.rnn.pad_sequence(list(pages), batch_first=True)

    def run(self, q: Tensor, paged_kv_cache: tuple[Tensor, Tensor]) -> Tensor:
        k, v = paged_kv_cache
        assert (q.shape[1], k.shape[2], k.shape[3], k.shape[1]) == self._shape
        left = self._options["window_left"]
        return reference.paged_attention(
            q,
            LayerCache(k, v),
            self._block_tables,
            cu_seqlens_q=self._cu_seqlens_q,
            seq_lens=self._seq_lens,
            softmax_scale=self._options["sm_scale"],
            sliding_window=None if left == -1 else left + 1,
            softcap=self._options["logits_soft_cap"],
        )


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of compute capability 8.0, and the package."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(flashinfer.importlib.util, "find_spec", lambda name: name)


def test_it_equals_the_reference_backend_step_after_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flashinfer, "load_wrapper", lambda: StandIn)
    spec = spec_of(LAYERS)
    backends = [kind(spec, storage_of(spec, CPU)) for kind in (ReferenceBackend, FlashInferBackend)]
    with pytest.raises(RuntimeError, match="before it planned"):
        backends[1].forward(0, torch.zeros(1, 6, 16))
    assert_equal_steps(spec, backends, CPU)


def test_the_pages_of_a_step() -> None:
    items = [
        ScheduledRequest(make_request(i), 0, length, [[9, 8, 7][: -(-length // 4)]]) for i, length in enumerate((5, 2))
    ]
    batch = build_batch(ScheduledBatch(items), 4, CPU)
    pages = list_pages(batch, 4, CPU)
    assert pages.starts.tolist() == [0, 2, 3]
    assert pages.last_lens.tolist() == [1, 2]
    assert batch.block_tables[0].flatten()[pages.places].tolist() == [9, 8, 9]


@pytest.mark.usefixtures("installed")
def test_nothing_speaks_against_a_plain_model_and_triton_comes_first() -> None:
    assert FlashInferBackend.objections(spec_of(WIDE), torch.bfloat16, GPU, torch.bfloat16, 16) == []
    backend, objections = choose_backend(spec_of(WIDE), torch.bfloat16, GPU, "flashinfer")
    assert backend is FlashInferBackend
    assert "'flashinfer' was asked for" in objections["triton"]
    for table in (PREFILL, DECODE):
        names = [kind.name for kind in table]
        assert names.index("triton") < names.index("flashinfer") < names.index("reference")


def test_all_reasons_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    monkeypatch.setattr(flashinfer.importlib.util, "find_spec", lambda name: None)
    uneven = (*FEATURED, LayerSpec(6, 2, 64, 128, softmax_scale=0.3, mlp=MLP))
    reasons = FlashInferBackend.objections(spec_of(uneven), torch.float32, CPU, torch.int8, 16)
    expected = (
        "head_dim 16",
        "differ in width",
        "ALiBi",
        "sinks",
        "cpu is not a GPU",
        "float32",
        "int8",
        "not installed",
    )
    assert len(reasons) == len(expected)
    for reason, part in zip(reasons, expected, strict=True):
        assert part in reason
