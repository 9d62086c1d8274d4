"""What an engine tells about its requests: receipts, cached tokens, salts, states, the block map."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.core import EngineCore
from engine.request import KVReceipt, Request, RequestStatus, TokenDelta
from kvcache.block_map import build_block_map
from tests.engine.tiny_models import build_model, make_request, prompt, run, save_model, tokens

Load = Callable[..., EngineCore]


def ask(name: str, token_ids: list[int], *, salt: str = "", receipt: bool = True, **params: Any) -> Request:
    request = make_request(name, token_ids, **{"ignore_eos": True, **params})
    request.cache_salt, request.enable_kv_receipt = salt, receipt
    return request


def cached(deltas: list[TokenDelta]) -> int:
    return deltas[-1].num_cached_tokens


def test_a_receipt_says_what_was_held_at_each_token(tiny_llama: Path, load: Load) -> None:
    deltas = run(load(tiny_llama), [ask("r", prompt(10), max_tokens=4)])["r"]
    # 10 prompt tokens, then one more with each step: the newest token itself has no KV yet.
    assert [delta.kv_receipt for delta in deltas] == [
        KVReceipt(3, 3, 10, 2),
        KVReceipt(3, 3, 11, 1),
        KVReceipt(3, 3, 12, 0),
        KVReceipt(4, 4, 13, 3),
    ]


def test_nobody_pays_who_did_not_ask(tiny_llama: Path, load: Load) -> None:
    deltas = run(load(tiny_llama), [ask("r", prompt(10), max_tokens=4, receipt=False)])["r"]
    assert [delta.kv_receipt for delta in deltas] == [None] * 4


def test_a_window_peaks_while_the_prompt_is_computed(load: Load, tmp_path: Path) -> None:
    folder = save_model(build_model("mistral", sliding_window=7), tmp_path)
    last = run(load(folder, block_size=4), [ask("r", prompt(40), max_tokens=10)])["r"][-1].kv_receipt
    # The whole prompt in one step takes 10 blocks; 49 tokens are held to the end, of which the window sees 7.
    assert last == KVReceipt(num_blocks=3, num_peak_blocks=10, num_tokens=49, num_wasted_slots=3)


def test_the_peak_survives_preemption(tiny_llama: Path, load: Load) -> None:
    core = load(tiny_llama, enable_prefix_cache=False)
    request = ask("r", prompt(40), max_tokens=3)
    core.add(request)
    core.step()
    core._scheduler._preempt(request)
    [state] = core.request_states(["r"])
    assert (state.status, state.num_preemptions) == (RequestStatus.PREEMPTED, 1)
    assert state.kv_receipt == KVReceipt(num_blocks=0, num_peak_blocks=10)
    while core.has_requests:
        [delta] = core.step()
    assert delta.kv_receipt == KVReceipt(11, 11, 42, 2)


@pytest.mark.parametrize("max_num_batched_tokens", [5, 2048])
@pytest.mark.parametrize("after_steps", [1, 2, 6])
def test_prompt_tokens_count_once_whatever_is_preempted(
    tiny_llama: Path, load: Load, max_num_batched_tokens: int, after_steps: int
) -> None:
    core = load(tiny_llama, max_num_batched_tokens=max_num_batched_tokens)
    run(core, [ask("before", prompt(21), max_tokens=1)])
    request = ask("r", prompt(40), max_tokens=8)
    request.prompt_token_ids[:21] = prompt(21)
    core.add(request)
    for _ in range(after_steps):
        core.step()
    core._scheduler._preempt(request)
    while core.has_requests:
        core.step()
    stats = core.take_stats()
    assert (stats.prompt_tokens, stats.cached_prompt_tokens) == (21 + 40, 20)
    assert request.num_cached_tokens == 20


def test_a_salt_holds_also_after_preemption(tiny_llama: Path, load: Load) -> None:
    core = load(tiny_llama)
    run(core, [ask("theirs", prompt(40), salt="theirs", max_tokens=1)])
    mine = ask("mine", prompt(40), salt="mine", max_tokens=4)
    core.add(mine)
    core.step()
    core._scheduler._preempt(mine)
    core.step()
    assert mine.num_cached_tokens == 0
    assert [item.num_computed_tokens for item in core._scheduler._scheduled.values()] == [40], "found its own again"
    while core.has_requests:
        core.step()


def test_salts_share_nothing_and_equal_ones_everything(tiny_llama: Path, load: Load) -> None:
    core = load(tiny_llama)
    found = [
        cached(run(core, [ask(f"{i}", prompt(37), salt=salt, max_tokens=2)])[f"{i}"])
        for i, salt in enumerate(["", "a", "b", "", "a", "b"])
    ]
    assert found == [0, 0, 0, 36, 36, 36]
    outputs = {tuple(tokens(run(core, [ask(salt, prompt(37), salt=salt)])[salt])) for salt in ("", "a", "c")}
    assert len(outputs) == 1


@pytest.mark.parametrize("num_output", [3, 4, 5, 6])
def test_every_turn_of_a_conversation_finds_all_but_the_last_partial_block(
    tiny_llama: Path, load: Load, num_output: int
) -> None:
    core = load(tiny_llama)
    history = prompt(10)
    for turn in range(10):
        deltas = run(core, [ask(f"turn-{turn}", history, max_tokens=num_output)])[f"turn-{turn}"]
        # The last token of the answer was never computed.
        expected = (len(history) - len(prompt(4)) - 1) // 4 * 4 if turn else 0
        assert cached(deltas) == expected
        history = [*history, *tokens(deltas), *prompt(4, seed=turn)]


def test_states_of_requests(tiny_llama: Path, load: Load) -> None:
    core = load(tiny_llama, max_num_seqs=1)
    core.add(ask("first", prompt(10), arrival_time_s=1.0))
    core.add(ask("second", prompt(8), arrival_time_s=2.0))
    core.step()
    core.step()
    first, second = core.request_states(["first", "never", "second"])
    assert (first.request_id, first.status, first.num_prompt_tokens, first.num_output_tokens) == (
        "first",
        RequestStatus.RUNNING,
        10,
        2,
    )
    assert first.kv_receipt == KVReceipt(3, 3, 11, 1)
    assert (second.status, second.kv_receipt) == (RequestStatus.WAITING, KVReceipt())
    core.abort("first")
    core.abort("second")
    assert core.request_states(["first", "second"]) == []


def test_the_block_map_of_a_running_engine(tiny_llama: Path, load: Load) -> None:
    core = load(tiny_llama)
    for name in ("a", "b"):
        core.add(ask(name, prompt(10)))
        core.step()
    found = build_block_map(core.block_snapshot())
    states = found.states.tobytes()
    assert (states.count(b"s"), states.count(b"o"), states.count(b"c")) == (2, 2, 0)
    assert found.request_ids == ["a", "b"]
    assert sum(found.filled_slots.tolist()) == 8 + 3 + 2
    core.abort("a")
    core.abort("b")
    states = build_block_map(core.block_snapshot()).states.tobytes()
    assert (states.count(b"c"), states.count(b"f")) == (2, core.info.num_blocks - 2)
