"""The Triton backend against the reference backend: two layers with a window, soft-cap and ALiBi, step after step."""

import sys

import pytest
import torch

from engine.attention.reference import ReferenceBackend
from engine.attention.registry import DECODE, choose_backend
from engine.attention.triton import TritonBackend
from engine.kernels import reference, select, triton
from engine.kernels.select import select_kernels
from engine.models.spec import LayerSpec
from kvcache.storage import EIGHT_BIT_DTYPES
from tests.engine.attention.stepping import MLP, assert_equal_steps, spec_of, storage_of
from tests.engine.kernels import triton_setup

CPU = torch.device("cpu")


def test_it_runs_on_no_cpu_and_says_all_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.importlib.util, "find_spec", lambda name: None)
    wide = (LayerSpec(4, 2, 64, 512, softmax_scale=1.0, mlp=MLP),)
    reasons = TritonBackend.objections(spec_of(wide), torch.float64, CPU, torch.float64, 16)
    assert len(reasons) == 4
    assert reasons[0] == "head_dim 512 is over 256"
    assert reasons[1] == "device cpu is not a GPU"
    assert reasons[2] == "the package triton is not installed"
    assert "float64" in reasons[3]


def test_a_gpu_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "PyTorch sees no GPU" in triton.objections(gpu, torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "compute capability (7, 5) is below (8, 0)" in triton.objections(gpu, torch.bfloat16)


def test_what_is_chosen_without_a_gpu_stays_and_triton_is_not_imported() -> None:
    backend, _ = choose_backend(spec_of(), torch.float64, CPU)
    assert backend is ReferenceBackend
    assert DECODE.index(TritonBackend) < DECODE.index(ReferenceBackend)
    assert select_kernels(CPU, torch.float64) is reference
    assert "engine.kernels.triton.kernels" not in sys.modules or "triton" in sys.modules


def test_with_a_gpu_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "objections", lambda device, dtype: [])
    monkeypatch.setattr(select.triton, "load_kernels", lambda: "the kernels")
    gpu = torch.device("cuda")
    backend, objections = choose_backend(spec_of(), torch.bfloat16, gpu)
    assert backend is TritonBackend
    assert "attention sinks is not in PyTorch's FlashAttention" in objections["varlen"]
    assert "device cuda is not the CPU" in objections["cpu"]
    assert select_kernels(gpu, torch.bfloat16) == "the kernels"
    assert select_kernels(gpu, torch.bfloat16, "reference") is reference


@pytest.mark.parametrize("kv_cache_dtype", [torch.float32, *EIGHT_BIT_DTYPES], ids=str)
def test_it_equals_the_reference_backend_step_after_step(kv_cache_dtype: torch.dtype) -> None:
    triton_setup.prepare()
    triton_setup.import_kernels()
    device, spec = triton_setup.DEVICE, spec_of()
    backends = [kind(spec, storage_of(spec, device, kv_cache_dtype)) for kind in (ReferenceBackend, TritonBackend)]
    with pytest.raises(RuntimeError, match="before it planned"):
        backends[1].forward(0, torch.zeros(1, 6, 16))
    assert_equal_steps(spec, backends, device)


def test_8_bit_caches_need_what_the_format_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, e4m3 = torch.device("cuda"), torch.float8_e4m3fn
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert triton.kv_objections(gpu, torch.bfloat16, torch.int8) == []
    assert "no e4m3; a KV cache of int8 would do" in triton.kv_objections(gpu, torch.bfloat16, e4m3)[0]
    assert "torch.float16 under torch.bfloat16" in triton.kv_objections(gpu, torch.bfloat16, torch.float16)[0]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert triton.kv_objections(gpu, torch.bfloat16, e4m3) == []
