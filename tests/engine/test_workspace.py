"""The formula of the workspace against what the largest step takes: within 5 %, whatever the model is made of."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from configs.model import ModelSettings
from engine.attention.registry import choose_backend
from engine.checkpoint import read_checkpoint
from engine.kernels.select import select_kernels
from engine.models.tensor_names import build_weight_map
from engine.rehearsal import Stage, build_rehearsal, largest_step
from engine.weights import load_parameters, pack_weights
from engine.workspace import Method, StepSize, largest_layers, workspace_bytes
from tests.engine import memory_tally
from tests.engine.tiny_models import save_model

SIZE = StepSize(num_tokens=1024, num_seqs=16, max_model_len=512, num_kv_tokens=3000)
CPU = torch.device("cpu")
TOLERANCE = 0.05

BASE = {
    **{"hidden_size": 192, "num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 3},
    **{"intermediate_size": 512, "vocab_size": 1000, "max_position_embeddings": 512},
}
WINDOW = {"sliding_window": 100}
GPT2 = {"n_embd": 192, "n_head": 6, "n_layer": 2, "vocab_size": 1000, "n_positions": 512}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", BASE),
    "large vocabulary": ("LlamaConfig", "LlamaForCausalLM", {**BASE, "vocab_size": 20_000}),
    "window": ("MistralConfig", "MistralForCausalLM", {**BASE, **WINDOW}),
    "biases, layer norm": ("GPT2Config", "GPT2LMHeadModel", GPT2),
    "qk norm": ("Qwen3Config", "Qwen3ForCausalLM", {**BASE, "head_dim": 32}),
    "soft-cap": ("Gemma2Config", "Gemma2ForCausalLM", {**BASE, **WINDOW, "head_dim": 32}),
    "two groups": ("Gemma3TextConfig", "Gemma3ForCausalLM", {**BASE, **WINDOW, "num_hidden_layers": 6, "head_dim": 32}),
    "experts": ("MixtralConfig", "MixtralForCausalLM", {**BASE, "num_local_experts": 4}),
    "alibi": ("BloomConfig", "BloomForCausalLM", {"hidden_size": 192, "n_head": 6, "n_layer": 2, "vocab_size": 1000}),
}


def load_stage(folder: Path, dtype: torch.dtype, kv_cache_dtype: torch.dtype, quantization: str = "none") -> Stage:
    checkpoint = read_checkpoint(folder)
    weight_map = build_weight_map(checkpoint.spec, checkpoint.tensor_names)
    parameters = load_parameters(checkpoint.spec, weight_map, checkpoint.headers, dtype, CPU, quantization=quantization)
    backend, _ = choose_backend(checkpoint.spec, dtype, CPU, kv_cache_dtype=kv_cache_dtype)
    kernels = select_kernels(CPU, dtype)
    pack_weights(checkpoint.spec, parameters, kernels)
    return Stage(
        spec=checkpoint.spec,
        parameters=parameters,
        kernels=kernels,
        backend=backend,
        block_size=16,
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        scale_bytes=2 if kv_cache_dtype is torch.int8 else 0,
        device=CPU,
    )


FORMATS = [
    (torch.float32, torch.float32, "none"),
    (torch.float64, torch.float64, "none"),
    (torch.float32, torch.int8, "none"),
    (torch.float32, torch.float32, "int8"),
    (torch.float64, torch.float64, "int8"),
]
"""Of the model, of its KV cache, and of its weights."""


@pytest.mark.parametrize(("dtype", "kv_cache_dtype", "quantization"), FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_the_formula_is_what_the_allocator_says(
    name: str, dtype: torch.dtype, kv_cache_dtype: torch.dtype, quantization: str, tmp_path: Path
) -> None:
    """float32 runs on the native kernels where they know the model, float64 and 8-bit caches on the reference."""
    import transformers

    config, model, fields = MODELS[name]
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    built = getattr(transformers, model)(getattr(transformers, config)(**tokens, **fields))
    stage = load_stage(save_model(built, tmp_path), dtype, kv_cache_dtype, quantization)
    size = msgspec.structs.replace(SIZE, max_model_len=min(512, stage.spec.max_position_embeddings))
    runner, num_groups = build_rehearsal(stage, size.max_model_len)
    step = largest_step(size, stage.block_size, num_groups, is_short=not stage.backend.grows_with_context)
    measured = memory_tally.peak_of(lambda: runner.execute(step))
    names = [str(one).removeprefix("torch.") for one in (dtype, kv_cache_dtype)]
    method = Method.predict(stage.spec, names[0], "cpu", names[1], quantization=quantization)
    assert workspace_bytes(stage.spec, size, method, stage.block_size) == pytest.approx(measured, rel=TOLERANCE)


LOAD = """
import sys
from pathlib import Path
from checkpoints.resolve import resolve_model
from configs.engine import EngineSettings
from configs.fields import with_overrides
from engine.loading import load_engine
settings = with_overrides(EngineSettings(), {"kv_cache_memory_bytes": 400_000_000, "device": "cpu"}, "test")
print(load_engine(resolve_model("demo"), settings).info.ledger.workspace_bytes)
"""


@pytest.mark.demo
def test_the_ledger_of_the_demo_has_what_the_formula_says() -> None:
    """Resident memory, in a process of its own: in an old one, it depends on what ran before."""
    from checkpoints.resolve import resolve_model

    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    checkpoint = read_checkpoint(resolve_model("demo"))
    dtype = checkpoint.dtype_name(ModelSettings())
    geometry = checkpoint.spec.kv_geometry(2, 16)
    size = StepSize(2048, 64, 8192, geometry.num_tokens_in(400_000_000, 8192))
    expected = workspace_bytes(checkpoint.spec, size, Method.predict(checkpoint.spec, dtype, "cpu"), 16)
    assert int(done.stdout) == pytest.approx(expected, rel=TOLERANCE)


def test_the_step_reaches_every_limit() -> None:
    step = largest_step(SIZE, 16, 2)
    assert [item.num_scheduled_tokens for item in step.scheduled] == [512, 512, *[1] * 14]
    assert len(step.scheduled) == SIZE.num_seqs
    assert step.scheduled[0].seq_len == SIZE.max_model_len
    assert all(item.samples for item in step.scheduled)
    assert sum(item.seq_len for item in step.scheduled) <= SIZE.num_kv_tokens
    assert [len(table) for table in step.scheduled[0].block_tables] == [32, 32]


def test_a_budget_below_the_number_of_requests_limits_them() -> None:
    step = largest_step(StepSize(num_tokens=4, num_seqs=64, max_model_len=512, num_kv_tokens=3000), 16, 1)
    assert [item.num_scheduled_tokens for item in step.scheduled] == [4, 1, 1, 1]


def test_of_many_kinds_of_layers_the_widest_are_rehearsed(tmp_path: Path) -> None:
    import transformers

    fields = {**BASE, **WINDOW, "num_hidden_layers": 6, "head_dim": 32}
    config = transformers.Gemma3TextConfig(bos_token_id=0, eos_token_id=1, pad_token_id=2, **fields)
    spec = read_checkpoint(save_model(transformers.Gemma3ForCausalLM(config), tmp_path)).spec
    assert largest_layers(spec) == [4, 5], "the last with a window, and the one without"
    wide = [
        msgspec.structs.replace(layer, num_kv_heads=kv)
        for layer, kv in zip(spec.layers, (6, 1, 2, 3, 1, 1), strict=True)
    ]
    assert largest_layers(msgspec.structs.replace(spec, layers=tuple(wide))) == [0, 3]
