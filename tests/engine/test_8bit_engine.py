"""The engine with 8-bit keys and values: what a request is served with changes its tokens no more than in wide formats."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.core import EngineCore
from engine.dtypes import EIGHT_BIT
from engine.request import FinishReason, Request
from tests.engine.tiny_models import make_request, prompt, run, save_model, tokens

Load = Callable[..., EngineCore]
FORMATS = pytest.mark.parametrize("kv_cache_dtype", EIGHT_BIT)
PARAMS: dict[str, Any] = {"max_tokens": 30, "ignore_eos": True}
BYTES_PER_TOKEN = 3 * 2 * 2 * (8 + 2)
"""3 layers * 2 KV heads * keys and values * (head_dim of 8 + a scale of 2 bytes)."""


@pytest.fixture(scope="session")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers with a window of 9 tokens and layers without."""
    layer_types = ["sliding_attention", "full_attention", "sliding_attention"]
    return save_model(_gemma(layer_types), tmp_path_factory.mktemp("windowed"))


def _gemma(layer_types: list[str]) -> Any:
    import transformers as hf

    torch.manual_seed(0)
    config = hf.Gemma3TextConfig(
        hidden_size=48,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        num_hidden_layers=3,
        vocab_size=101,
        intermediate_size=64,
        max_position_embeddings=256,
        sliding_window=9,
        layer_types=layer_types,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    return hf.Gemma3ForCausalLM(config).double().eval()


@pytest.fixture(params=["llama", "windowed"])
def folder(request: pytest.FixtureRequest, tiny_llama: Path, windowed: Path) -> Path:
    return tiny_llama if request.param == "llama" else windowed


def subject() -> Request:
    return make_request("subject", prompt(37, seed=1), **PARAMS)


@FORMATS
def test_prefix_cache_chunks_and_batches_change_nothing(folder: Path, load: Load, kv_cache_dtype: str) -> None:
    alone = tokens(run(load(folder, kv_cache_dtype=kv_cache_dtype, enable_prefix_cache=False), [subject()])["subject"])
    assert len(alone) == 30
    core = load(folder, kv_cache_dtype=kv_cache_dtype)
    run(core, [make_request("first", prompt(37, seed=1))])
    again = run(core, [subject()])["subject"]
    assert tokens(again) == alone
    assert again[-1].num_cached_tokens == 36
    chunked = load(folder, kv_cache_dtype=kv_cache_dtype, max_num_batched_tokens=5)
    others = [make_request(f"other-{i}", prompt(3 + 11 * i, seed=100 + i), max_tokens=9) for i in range(3)]
    assert tokens(run(chunked, [*others, subject()])["subject"]) == alone


@FORMATS
@pytest.mark.parametrize("enable_prefix_cache", [False, True])
def test_preemption_changes_nothing(
    tiny_llama: Path, load: Load, kv_cache_dtype: str, enable_prefix_cache: bool
) -> None:
    alone = tokens(run(load(tiny_llama, kv_cache_dtype=kv_cache_dtype), [subject()])["subject"])
    # 42 blocks of 4 tokens: four requests of up to 67 tokens need more, so the late ones are preempted again and again.
    core = load(
        tiny_llama,
        kv_cache_dtype=kv_cache_dtype,
        kv_cache_memory_bytes=42 * 4 * BYTES_PER_TOKEN,
        max_model_len=100,
        enable_prefix_cache=enable_prefix_cache,
    )
    others = [make_request(f"o{i}", prompt(30, seed=i), **PARAMS) for i in range(3)]
    late = subject()
    late.arrival_time_s = 1.0
    assert tokens(run(core, [*others, late])["subject"]) == alone
    assert late.num_preemptions > 0


@FORMATS
def test_decoding_again_gives_the_same(tiny_llama: Path, load: Load, kv_cache_dtype: str) -> None:
    first, second = (load(tiny_llama, kv_cache_dtype=kv_cache_dtype, enable_prefix_cache=False) for _ in range(2))
    given = tokens(run(first, [subject()])["subject"])
    assert tokens(run(first, [subject()])["subject"]) == given
    assert tokens(run(second, [subject()])["subject"]) == given


@FORMATS
def test_the_engine_says_what_it_keeps(tiny_llama: Path, load: Load, kv_cache_dtype: str) -> None:
    info = load(tiny_llama, kv_cache_dtype=kv_cache_dtype, kv_cache_memory_bytes=100_000, max_model_len=100).info
    assert (info.dtype, info.kv_cache_dtype) == ("float64", kv_cache_dtype)
    assert info.geometry.bytes_per_token == BYTES_PER_TOKEN
    assert info.num_blocks == 100_000 // (4 * BYTES_PER_TOKEN)
    assert info.ledger.kv_cache_bytes == info.num_blocks * 4 * BYTES_PER_TOKEN
    assert info.attention_backend == "reference"
    assert any("dtype torch.float64" in reason for reason in info.attention_objections["cpu"])


def test_auto_is_the_models_own(tiny_llama: Path, load: Load) -> None:
    info = load(tiny_llama).info
    assert info.kv_cache_dtype == info.dtype == "float64"
    assert info.geometry.scale_bytes == 0


@FORMATS
def test_8_bits_are_in_use(tiny_llama: Path, load: Load, kv_cache_dtype: str) -> None:
    """Log-probabilities move a little, but not much: the cache is neither exact nor garbage."""
    exact, rounded = (
        run(load(tiny_llama, **settings), [make_request("r", prompt(60, seed=3), max_tokens=1, logprobs=0)])["r"][-1]
        for settings in ({}, {"kv_cache_dtype": kv_cache_dtype})
    )
    assert rounded.finish_reason is FinishReason.LENGTH
    change = abs(exact.logprobs[0].logprob - rounded.logprobs[0].logprob)
    assert 0 < change < 0.05


@FORMATS
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_narrow_models_run_too(tiny_llama: Path, load: Load, kv_cache_dtype: str, dtype: str) -> None:
    core = load(tiny_llama, kv_cache_dtype=kv_cache_dtype, dtype=dtype)
    assert len(tokens(run(core, [subject()])["subject"])) == 30
