"""PyTorch's FlashAttention runs on GPUs only: how it is called is held against the reference through a stand-in."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.attention import varlen
from engine.attention.reference import ReferenceBackend
from engine.attention.varlen import VarlenBackend
from engine.kernels import reference
from engine.models.spec import LayerSpec
from kvcache.storage import LayerCache
from tests.engine.attention.stepping import FEATURED, MLP, PLAIN, assert_equal_steps, spec_of, storage_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")
real = varlen.load_varlen_attn()


def stand_in(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, **given: Any
) -> Tensor:
    """What PyTorch documents of varlen_attn, computed by the reference."""
    if not varlen.missing_arguments():
        inspect.signature(real).bind(q, k, v, cu_q, cu_k, max_q, max_k, **given)
    tables, seq_lens = given["block_table"], given["seqused_k"]
    for tensor in (cu_q, cu_k, tables, seq_lens):
        assert tensor.dtype is torch.int32
        assert tensor.is_contiguous()
    assert (max_q, max_k) == (int(cu_q.diff().max()), int(seq_lens.max()))
    assert torch.equal(cu_k.diff(), seq_lens)
    assert given["enable_gqa"]
    assert given["num_splits"] == 1
    left, right = given["window_size"]
    assert right == 0
    return reference.paged_attention(
        q,
        LayerCache(k, v),
        tables.long(),
        cu_seqlens_q=cu_q.long(),
        seq_lens=seq_lens.long(),
        softmax_scale=given["scale"],
        sliding_window=None if left == -1 else left + 1,
    )


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of compute capability 8.0, and a PyTorch with all arguments."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(varlen, "missing_arguments", list)


def test_it_equals_the_reference_backend_step_after_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "load_varlen_attn", lambda: stand_in)
    spec = spec_of(PLAIN)
    backends = [kind(spec, storage_of(spec, CPU)) for kind in (ReferenceBackend, VarlenBackend)]
    with pytest.raises(RuntimeError, match="before it planned"):
        backends[1].forward(0, torch.zeros(1, 6, 16))
    assert_equal_steps(spec, backends, CPU)


@pytest.mark.usefixtures("ampere")
def test_nothing_speaks_against_a_plain_model() -> None:
    assert VarlenBackend.objections(spec_of(PLAIN), torch.bfloat16, GPU, torch.bfloat16, 256) == []


@pytest.mark.usefixtures("ampere")
def test_each_thing_it_does_not_have_is_said() -> None:
    layers = (*FEATURED, LayerSpec(6, 2, 20, 320, softmax_scale=0.3, mlp=MLP))
    reasons = VarlenBackend.objections(spec_of(layers), torch.float32, GPU, torch.int8, 16)
    expected = (
        "head_dim 320 is over 256",
        "head_dim 20 is no multiple of 8",
        "keys and values differ in width",
        "ALiBi is not in",
        "attention soft-cap is not in",
        "attention sinks is not in",
        "dtype torch.float32 is none of",
        "a KV cache of torch.int8 under torch.float32",
        "block_size 16 is no multiple of 256",
    )
    assert len(reasons) == len(expected)
    assert all(wanted in reason for wanted, reason in zip(expected, reasons, strict=True))


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert varlen.device_objections(CPU) == ["device cpu is not a GPU"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert varlen.device_objections(GPU) == ["PyTorch sees no GPU"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert varlen.device_objections(GPU) == ["compute capability (7, 5) is below (8, 0)"]
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert "ROCm" in varlen.device_objections(GPU)[0]


def test_an_older_pytorch_lacks_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(query: Tensor, *, window_size: tuple[int, int], enable_gqa: bool) -> Tensor:
        return query

    monkeypatch.setattr(varlen, "load_varlen_attn", lambda: older)
    reasons = VarlenBackend.objections(spec_of(PLAIN), torch.bfloat16, GPU, torch.bfloat16, 256)
    assert "has no block_table, seqused_k, num_splits: 2.13 has" in reasons[-1]
