"""The engine with weights of 8-bit integers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.core import EngineCore
from engine.errors import ModelLoadError
from engine.kernels import cpu
from engine.loading import check_quantization
from engine.quantization import quantized_weights, weights_bytes
from engine.request import FinishReason, Request
from tests.engine.tiny_models import build_model, make_request, prompt, run, save_model, tokens

Load = Callable[..., EngineCore]
PARAMS: dict[str, Any] = {"max_tokens": 30, "ignore_eos": True}


def subject() -> Request:
    return make_request("subject", prompt(37, seed=1), **PARAMS)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_native_and_reference_kernels_give_the_same_tokens(family: str, tmp_path: Path, load: Load) -> None:
    if reasons := cpu.objections(torch.device("cpu"), torch.float32):
        pytest.skip("; ".join(reasons))
    folder = save_model(build_model(family), tmp_path)
    settings = {"dtype": "float32", "quantization": "int8"}
    native, reference = (load(folder, **settings, attention_backend=name) for name in ("auto", "reference"))
    assert (native.info.attention_backend, reference.info.attention_backend) == ("cpu", "reference")
    assert tokens(run(native, [subject()])["subject"]) == tokens(run(reference, [subject()])["subject"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_prefix_cache_chunks_and_batches_change_nothing(tiny_llama: Path, load: Load, dtype: str) -> None:
    settings = {"dtype": dtype, "quantization": "int8"}
    alone = tokens(run(load(tiny_llama, **settings, enable_prefix_cache=False), [subject()])["subject"])
    assert len(alone) == 30
    core = load(tiny_llama, **settings)
    run(core, [make_request("first", prompt(37, seed=1))])
    assert tokens(run(core, [subject()])["subject"]) == alone
    chunked = load(tiny_llama, **settings, max_num_batched_tokens=5)
    others = [make_request(f"other-{i}", prompt(3 + 11 * i, seed=100 + i), max_tokens=9) for i in range(3)]
    assert tokens(run(chunked, [*others, subject()])["subject"]) == alone


@pytest.mark.parametrize("attention_backend", ["auto", "reference"])
def test_8_bits_are_in_use(tiny_llama: Path, load: Load, attention_backend: str) -> None:
    """Log-probabilities move a little, but not much: the weights are neither exact nor garbage."""
    exact, rounded = (
        run(
            load(tiny_llama, dtype="float32", attention_backend=attention_backend, quantization=quantization),
            [make_request("r", prompt(60, seed=3), max_tokens=1, logprobs=0)],
        )["r"][-1]
        for quantization in ("none", "int8")
    )
    assert rounded.finish_reason is FinishReason.LENGTH
    assert 0 < abs(exact.logprobs[0].logprob - rounded.logprobs[0].logprob) < 0.1


def test_the_engine_says_what_it_keeps(tiny_llama: Path, load: Load) -> None:
    core = load(tiny_llama, dtype="float32", quantization="int8")
    whole = load(tiny_llama, dtype="float32")
    assert (core.info.dtype, core.info.quantization, whole.info.quantization) == ("float32", "int8", "none")
    assert core.info.geometry == whole.info.geometry
    assert core.info.ledger.weights_bytes < 0.4 * whole.info.ledger.weights_bytes


def test_a_gpu_is_refused_with_a_remedy() -> None:
    with pytest.raises(ModelLoadError, match="runs on a CPU only, and the model is to run on cuda: use --device cpu"):
        check_quantization("int8", torch.device("cuda"))
    check_quantization("none", torch.device("cuda"))


def test_routers_and_norms_stay_whole(tmp_path: Path) -> None:
    from engine.checkpoint import read_checkpoint

    spec = read_checkpoint(save_model(build_model("mixtral"), tmp_path)).spec
    shapes, quantized = spec.parameter_shapes(), set(quantized_weights(spec, "int8"))
    assert {name.split(".", 2)[-1] for name in shapes if name not in quantized and name.startswith("layers.")} == {
        "attention_norm.weight",
        "mlp_norm.weight",
        "router.weight",
    }
    assert not quantized_weights(spec, "none")
    assert weights_bytes(spec, 2, "none") == 2 * spec.num_parameters()
