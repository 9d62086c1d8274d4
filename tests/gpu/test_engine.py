"""A whole engine on the GPU: the CPU's tokens, however its steps are launched, and no wait that nobody needs."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
pytest.importorskip("msgspec")

from engine.core import EngineCore
from engine.loading import load_engine
from tests.engine.tiny_models import build_model, make_request, prompt, run, save_model, settings, tokens

LENGTHS = (5, 33, 90, 1, 64, 17)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(build_model("llama", head_dim=16), tmp_path_factory.mktemp("llama"))


def load(folder: Path, **overrides: Any) -> EngineCore:
    wanted = {"dtype": "float32", "device": "cuda", "block_size": 16, "max_num_batched_tokens": 48, "max_num_seqs": 6}
    return load_engine(folder, settings(**wanted | overrides))


def answers(core: EngineCore, **params: Any) -> dict[str, list[int]]:
    requests = [make_request(str(n), prompt(n, seed=n), max_tokens=40, seed=n, **params) for n in LENGTHS]
    return {name: tokens(deltas) for name, deltas in run(core, requests).items()}


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, list[int]]:
    return answers(load(folder, device="cpu", dtype="float64", attention_backend="reference"))


@pytest.mark.parametrize("enforce_eager", [False, True])
@pytest.mark.parametrize("enable_overlap", ["on", "off"])
@pytest.mark.parametrize("backend", ["auto", "triton", "reference"])
def test_tokens_are_the_cpus(
    backend: str, enable_overlap: str, enforce_eager: bool, folder: Path, expected: dict[str, list[int]]
) -> None:
    core = load(folder, attention_backend=backend, enable_overlap=enable_overlap, enforce_eager=enforce_eager)
    assert answers(core) == expected


def test_drawn_tokens_do_not_depend_on_how_steps_are_launched(folder: Path) -> None:
    params = {"temperature": 0.9, "top_p": 0.95, "top_k": 30}
    found = [
        answers(load(folder, enable_overlap=overlap, enforce_eager=eager), **params)
        for overlap, eager in (("on", False), ("off", True))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("kv_cache_dtype", ["int8", "fp8_e4m3"])
def test_8_bit_caches_give_the_references_tokens(kv_cache_dtype: str, folder: Path) -> None:
    found = [
        answers(load(folder, kv_cache_dtype=kv_cache_dtype, attention_backend=name)) for name in ("auto", "reference")
    ]
    same = [len(one) for one in found[0].values() if one in found[1].values()]
    assert len(same) >= len(LENGTHS) - 1  # a key on the border between two 8-bit numbers may fall either way


def test_a_step_waits_for_its_tokens_and_for_nothing_else(folder: Path) -> None:
    """PyTorch raises where an operation makes the host wait for the device; waiting for an event is no such operation."""
    core = load(folder)
    answers(core)
    torch.cuda.set_sync_debug_mode("error")
    try:
        answers(core, temperature=0.9, top_p=0.95)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_graphs_are_in_the_ledger(folder: Path) -> None:
    with_graphs, without = load(folder).info.ledger, load(folder, enforce_eager=True).info.ledger
    assert with_graphs.graphs_bytes > 0 == without.graphs_bytes


def test_weights_arrive_as_they_are(folder: Path) -> None:
    """Through pinned buffers, which are smaller than a file."""
    from engine.checkpoint import read_checkpoint
    from engine.models.tensor_names import build_weight_map
    from engine.weights import load_parameters

    checkpoint = read_checkpoint(folder)
    weight_map = build_weight_map(checkpoint.spec, checkpoint.tensor_names)
    on_cpu, on_gpu = (
        load_parameters(checkpoint.spec, weight_map, checkpoint.headers, torch.float32, torch.device(name))
        for name in ("cpu", "cuda")
    )
    for name, tensor in on_cpu.items():
        assert torch.equal(on_gpu[name].cpu(), tensor)
