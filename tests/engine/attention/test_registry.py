"""Which backend is chosen, and why others are not."""

from collections.abc import Iterator

import pytest
import torch

from engine.attention.cpu import CpuBackend
from engine.attention.reference import ReferenceBackend
from engine.attention.registry import choose_backend
from engine.attention.triton import TritonBackend
from engine.attention.varlen import VarlenBackend
from engine.errors import ModelLoadError
from engine.kernels import cpu, reference
from engine.kernels.cpu import kernels as cpu_kernels
from engine.kernels.select import select_kernels
from engine.models.spec import Activation, LayerSpec, MLPSpec
from kvcache.storage import EIGHT_BIT_DTYPES

CPU = torch.device("cpu")


class _Spec:
    """What backends read of a DecoderSpec before they run."""

    def __init__(self, head_dim: int = 64) -> None:
        self.layers = (
            LayerSpec(4, 2, head_dim, head_dim, softmax_scale=1.0, mlp=MLPSpec(8, Activation.RELU, is_gated=False)),
        )


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cpu_kernels, "load_library", lambda: "no C compiler (cc) on the PATH")
    yield


def test_float64_is_left_to_the_reference() -> None:
    backend, objections = choose_backend(_Spec(), torch.float64, CPU)
    assert backend is ReferenceBackend
    assert "dtype torch.float64" in objections["cpu"][0]
    assert select_kernels(CPU, torch.float64) is reference


def test_the_reference_can_be_asked_for() -> None:
    backend, objections = choose_backend(_Spec(), torch.float32, CPU, "reference")
    assert backend is ReferenceBackend
    assert objections["cpu"][-1] == "'reference' was asked for"
    assert select_kernels(CPU, torch.float32, "reference") is reference


@pytest.mark.usefixtures("no_library")
def test_without_a_library_the_reference_serves_and_the_reason_is_told() -> None:
    backend, objections = choose_backend(_Spec(), torch.bfloat16, CPU)
    assert backend is ReferenceBackend
    assert objections["cpu"] == ["no C compiler (cc) on the PATH"]
    assert select_kernels(CPU, torch.bfloat16) is reference
    with pytest.raises(ModelLoadError, match="no C compiler"):
        choose_backend(_Spec(), torch.bfloat16, CPU, "cpu")


@pytest.mark.parametrize("kv_cache_dtype", EIGHT_BIT_DTYPES, ids=str)
def test_8_bit_caches_are_native(kv_cache_dtype: torch.dtype) -> None:
    if reasons := cpu.objections(CPU, torch.bfloat16):
        pytest.skip("; ".join(reasons))
    assert choose_backend(_Spec(), torch.bfloat16, CPU, kv_cache_dtype=kv_cache_dtype) == (CpuBackend, {})


def test_all_objections_are_listed() -> None:
    reasons = CpuBackend.objections(_Spec(), torch.float16, torch.device("cuda"), torch.bfloat16, 16)
    assert len(reasons) == 3
    assert reasons[-1] == "a KV cache of torch.bfloat16 under torch.float16 is not in the native kernels"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_a_library_native_kernels_run(dtype: torch.dtype) -> None:
    if reasons := cpu.objections(CPU, dtype):
        pytest.skip("; ".join(reasons))
    assert choose_backend(_Spec(), dtype, CPU) == (CpuBackend, {})
    assert select_kernels(CPU, dtype).name.startswith("cpu (")


def test_prefill_and_decode_are_chosen_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in (VarlenBackend, TritonBackend):
        monkeypatch.setattr(backend, "objections", staticmethod(lambda *_: []))
    gpu = torch.device("cuda")
    backend, objections = choose_backend(_Spec(), torch.bfloat16, gpu, block_size=256)
    assert backend.name == "varlen (prefill), triton (decode)"
    assert "device cuda is not the CPU" in objections["cpu"]
    assert choose_backend(_Spec(), torch.bfloat16, gpu, "varlen")[0] is VarlenBackend
    monkeypatch.setattr(TritonBackend, "objections", staticmethod(lambda *_: ["no Triton"]))
    backend, objections = choose_backend(_Spec(), torch.bfloat16, gpu, block_size=256)
    assert backend is VarlenBackend
    assert objections["triton"] == ["no Triton"]
