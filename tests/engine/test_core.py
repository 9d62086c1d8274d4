"""The core: how requests end, what it counts, what an abort leaves behind."""

from collections.abc import Callable
from pathlib import Path

from engine.core import EngineCore
from engine.request import FinishReason
from tests.engine.tiny_models import make_request, prompt, run, tokens


def test_a_stop_token_ends_the_output_and_is_its_last_token(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    core = load(tiny_llama)
    free = tokens(run(core, [make_request("free", prompt(8), ignore_eos=True)])["free"])
    deltas = run(core, [make_request("r", prompt(8), ignore_eos=True, stop_token_ids=(free[3],))])["r"]
    assert tokens(deltas) == free[: free.index(free[3]) + 1]
    assert deltas[-1].finish_reason is FinishReason.STOP
    assert deltas[-1].stop_token_id == free[3]


def test_min_tokens_puts_a_stop_token_off(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    core = load(tiny_llama)
    first = tokens(run(core, [make_request("free", prompt(8), ignore_eos=True)])["free"])[0]
    request = make_request("r", prompt(8), ignore_eos=True, stop_token_ids=(first,), min_tokens=5, max_tokens=9)
    output = tokens(run(core, [request])["r"])
    assert first not in output[:5]
    assert len(output) >= 5


def test_max_tokens_ends_with_length(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    deltas = run(load(tiny_llama), [make_request("r", prompt(8), max_tokens=3, ignore_eos=True)])["r"]
    assert len(tokens(deltas)) == 3
    assert deltas[-1].finish_reason is FinishReason.LENGTH


def test_abort_while_running_frees_the_blocks(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    core = load(tiny_llama, enable_prefix_cache=False)
    core.add(make_request("r", prompt(20), max_tokens=100, ignore_eos=True))
    core.step()
    assert core.take_stats().num_used_blocks == 5
    delta = core.abort("r")
    assert delta is not None
    assert delta.finish_reason is FinishReason.ABORT
    stats = core.take_stats()
    assert (stats.num_used_blocks, stats.num_running, core.has_requests) == (0, 0, False)
    assert core.abort("r") is None


def test_abort_while_waiting(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    core = load(tiny_llama, max_num_seqs=1)
    core.add(make_request("a", prompt(4), max_tokens=4, ignore_eos=True))
    core.add(make_request("b", prompt(4)))
    core.step()
    assert core.take_stats().num_waiting == 1
    assert core.abort("b") is not None
    assert core.take_stats().num_waiting_tokens == 0


def test_stats_count_prompt_generated_cached_and_read(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    core = load(tiny_llama)
    run(core, [make_request("a", prompt(10), max_tokens=4, ignore_eos=True)])
    run(core, [make_request("b", prompt(10), max_tokens=4, ignore_eos=True)])
    stats = core.take_stats()
    assert (stats.prompt_tokens, stats.generation_tokens, stats.cached_prompt_tokens) == (20, 8, 8)
    # Four steps each; a step of a request reads all tokens it has by then: 10, 11, 12, 13.
    assert stats.kv_read_bytes == 2 * (10 + 11 + 12 + 13) * core.info.geometry.bytes_per_token
    assert sum(stats.observations.step_tokens) == (10 + 3) + (2 + 3)
    assert core.take_stats().observations.step_tokens == []


def test_storage_bytes_equal_geometry(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    info = load(tiny_llama).info
    # 3 layers * 2 KV heads * (8 + 8) numbers * 8 bytes
    assert info.geometry.bytes_per_token == 768
    assert info.ledger.kv_cache_bytes == info.num_blocks * info.geometry.bytes_per_block
    assert sum(info.startup_s.values()) > 0
