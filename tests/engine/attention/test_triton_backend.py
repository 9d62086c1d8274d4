"""The Triton backend against the reference backend: two layers with a window, soft-cap and ALiBi, step after step."""

import sys

import pytest
import torch

from engine.attention.reference import ReferenceBackend
from engine.attention.registry import BACKENDS, choose_backend
from engine.attention.triton import TritonBackend
from engine.batch import build_batch
from engine.kernels import reference, select, triton
from engine.kernels.select import select_kernels
from engine.models.alibi import alibi_slopes
from engine.models.spec import Activation, DecoderSpec, HeadSpec, LayerSpec, MLPSpec, NormKind, NormSpec
from engine.request import Request, SamplingParams, ScheduledBatch, ScheduledRequest
from kvcache.storage import KVStorage
from tests.engine.kernels import triton_setup

CPU = torch.device("cpu")
MLP = MLPSpec(8, Activation.RELU, is_gated=False)
LAYERS = (
    LayerSpec(6, 2, 16, 16, softmax_scale=0.3, mlp=MLP, softcap=2.0, alibi_slopes=alibi_slopes(6)),
    LayerSpec(6, 2, 16, 16, softmax_scale=0.3, mlp=MLP, sliding_window=9, has_sinks=True),
)


def spec_of(layers: tuple[LayerSpec, ...] = LAYERS) -> DecoderSpec:
    norm = NormSpec(NormKind.RMS, 1e-6)
    return DecoderSpec("Test", 10, 48, 200, layers, norm, HeadSpec(is_tied=True, norm=norm))


def test_it_runs_on_no_cpu_and_says_all_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.importlib.util, "find_spec", lambda name: None)
    wide = (LayerSpec(4, 2, 64, 512, softmax_scale=1.0, mlp=MLP),)
    reasons = TritonBackend.objections(spec_of(wide), torch.float64, CPU, torch.float64)
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
    assert BACKENDS.index(TritonBackend) < BACKENDS.index(ReferenceBackend)
    assert select_kernels(CPU, torch.float64) is reference
    assert "engine.kernels.triton.kernels" not in sys.modules or "triton" in sys.modules


def test_with_a_gpu_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "objections", lambda device, dtype: [])
    monkeypatch.setattr(select.triton, "load_kernels", lambda: "the kernels")
    gpu = torch.device("cuda")
    backend, objections = choose_backend(spec_of(), torch.bfloat16, gpu)
    assert backend is TritonBackend
    assert "device cuda is not the CPU" in objections["cpu"]
    assert select_kernels(gpu, torch.bfloat16) == "the kernels"
    assert select_kernels(gpu, torch.bfloat16, "reference") is reference


def test_it_equals_the_reference_backend_step_after_step() -> None:
    triton_setup.prepare()
    triton_setup.import_kernels()
    device, spec = triton_setup.DEVICE, spec_of()
    geometry = spec.kv_geometry(4, 16)
    backends = [
        kind(spec, KVStorage(geometry, 12, torch.float32, device)) for kind in (ReferenceBackend, TritonBackend)
    ]
    with pytest.raises(RuntimeError, match="before it planned"):
        backends[1].forward(0, *[torch.zeros(1, 6, 16)] * 3)
    torch.manual_seed(0)
    # A block belongs to one group of layers at a time.
    tables = [[[5, 1, 7], [11, 3, 8]][: len(geometry.groups)], [[2, 9, 0], [4, 10, 6]][: len(geometry.groups)]]
    for steps in (((0, 20), (0, 7)), ((20, 21), (7, 8)), ((21, 33), (8, 9)), ((33, 34), (9, 30))):
        items = [ScheduledRequest(_request(i), start, stop - start, tables[i]) for i, (start, stop) in enumerate(steps)]
        batch = build_batch(ScheduledBatch(items), 16, device)
        num_tokens = sum(stop - start for start, stop in steps)
        for layer_idx, layer in enumerate(spec.layers):
            q, k, v = (torch.randn(num_tokens, heads, 16, device=device) for heads in (6, 2, 2))
            sinks = torch.randn(6, device=device) if layer.has_sinks else None
            outs = []
            for backend in backends:
                backend.plan(batch)
                outs.append(backend.forward(layer_idx, q, k, v, sinks))
            torch.testing.assert_close(outs[1], outs[0], atol=1e-5, rtol=0)


def _request(number: int) -> Request:
    return Request(request_id=str(number), prompt_token_ids=[0] * 60, sampling_params=SamplingParams())
