"""What a request is served with never changes its tokens: batch, chunks, preemption, prefix cache, seeds (float64)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.core import EngineCore
from engine.request import FinishReason, Request
from tests.engine.tiny_models import make_request, prompt, run, tokens

PARAMS: dict[str, dict[str, Any]] = {
    "greedy": {"max_tokens": 30, "ignore_eos": True},
    "sampled": {"max_tokens": 30, "ignore_eos": True, "temperature": 1.3, "seed": 7},
    "truncated": {"max_tokens": 30, "ignore_eos": True, "temperature": 1.5, "seed": 7, "top_k": 20, "top_p": 0.9},
    "penalised": {"max_tokens": 30, "ignore_eos": True, "repetition_penalty": 1.4, "frequency_penalty": 0.5},
}


@pytest.fixture(params=PARAMS)
def params(request: pytest.FixtureRequest) -> dict[str, Any]:
    return PARAMS[request.param]


@pytest.fixture
def alone(tiny_llama: Path, load: Callable[..., EngineCore], params: dict[str, Any]) -> list[int]:
    return tokens(run(load(tiny_llama), [subject(params)])["subject"])


def subject(params: dict[str, Any]) -> Request:
    return make_request("subject", prompt(37, seed=1), **params)


def crowd(num_seqs: int) -> list[Request]:
    return [
        make_request(f"other-{i}", prompt(3 + 11 * i, seed=100 + i), max_tokens=5 + 3 * i, temperature=1.0)
        for i in range(num_seqs)
    ]


def test_in_a_full_batch(
    tiny_llama: Path, load: Callable[..., EngineCore], params: dict[str, Any], alone: list[int]
) -> None:
    core = load(tiny_llama, max_num_seqs=8)
    deltas = run(core, [*crowd(7)[:4], subject(params), *crowd(7)[4:]])
    assert tokens(deltas["subject"]) == alone


def test_chunked(tiny_llama: Path, load: Callable[..., EngineCore], params: dict[str, Any], alone: list[int]) -> None:
    core = load(tiny_llama, max_num_batched_tokens=5)
    assert tokens(run(core, [*crowd(3), subject(params)])["subject"]) == alone


def test_preempted_and_resumed(
    tiny_llama: Path, load: Callable[..., EngineCore], params: dict[str, Any], alone: list[int]
) -> None:
    # 42 blocks of 4 tokens: four requests of up to 67 tokens need more, so the late ones are preempted again and again.
    geometry_bytes = 42 * 4 * 3 * 2 * 2 * 8 * 8
    core = load(tiny_llama, kv_cache_memory_bytes=geometry_bytes, max_model_len=100, enable_prefix_cache=False)
    others = [make_request(f"o{i}", prompt(30, seed=i), max_tokens=30, ignore_eos=True) for i in range(3)]
    late = subject(params)
    late.arrival_time_s = 1.0
    assert tokens(run(core, [*others, late])["subject"]) == alone
    assert late.num_preemptions > 0


def test_from_the_prefix_cache(
    tiny_llama: Path, load: Callable[..., EngineCore], params: dict[str, Any], alone: list[int]
) -> None:
    core = load(tiny_llama)
    run(core, [make_request("first", prompt(37, seed=1))])
    deltas = run(core, [subject(params)])["subject"]
    assert tokens(deltas) == alone
    assert deltas[-1].num_cached_tokens == 36


def test_block_size_does_not_matter(
    tiny_llama: Path, load: Callable[..., EngineCore], params: dict[str, Any], alone: list[int]
) -> None:
    assert tokens(run(load(tiny_llama, block_size=16), [subject(params)])["subject"]) == alone


def test_seeds_differ_and_repeat(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    core = load(tiny_llama)
    requests = [
        make_request(str(i), prompt(5), temperature=1.5, seed=seed, max_tokens=20, ignore_eos=True)
        for i, seed in enumerate([1, 2, 1, None, None])
    ]
    outputs = [tokens(deltas) for deltas in run(core, requests).values()]
    assert outputs[0] == outputs[2]
    assert len({tuple(output) for output in outputs}) == 4


def test_every_request_ends_in_exactly_one_reason(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    core = load(tiny_llama, max_num_batched_tokens=16, max_num_seqs=4)
    deltas = run(core, crowd(9))
    for request_id, found in deltas.items():
        reasons = [delta.finish_reason for delta in found if delta.finish_reason is not None]
        assert len(reasons) == 1, request_id
        assert reasons[0] in (FinishReason.STOP, FinishReason.LENGTH)
        assert found[-1].finish_reason is reasons[0]
