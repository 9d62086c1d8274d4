"""The engine process and its client: a real process, a tiny model."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import engine.client
from engine.child import EngineChild
from engine.client import DELTAS_AT_ONCE, EngineClient, EngineState
from engine.errors import EngineUnavailableError, ModelLoadError, QueueFullError, RequestRefusedError
from engine.info import EngineStats
from engine.request import FinishReason, Request, TokenDelta
from engine.streams import DeltaStream
from tests.engine.tiny_models import build_model, make_request, prompt, save_model, settings, tokens

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(build_model("llama", max_position_embeddings=2048), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
async def client(folder: Path) -> AsyncIterator[EngineClient]:
    client = EngineClient("tiny", folder, settings(max_num_seqs=3, max_num_waiting=2))
    await client.start()
    await client.wait_ready()
    yield client
    await client.shutdown()


async def collect(client: EngineClient, request: Request) -> list[TokenDelta]:
    return [delta async for delta in client.generate(request)]


async def until_idle(client: EngineClient) -> EngineStats:
    """The first snapshot without a request in it."""
    for _ in range(100):
        await asyncio.sleep(0.05)
        if client.stats.num_running + client.stats.num_waiting == 0:
            return client.stats
    raise AssertionError(f"requests are left: {client.stats}")


async def test_streams_run_side_by_side(client: EngineClient) -> None:
    requests = [make_request(f"r{i}", prompt(5 + i), ignore_eos=True) for i in range(4)]
    together = await asyncio.gather(*(collect(client, request) for request in requests))
    alone = await collect(client, make_request("alone", prompt(6), ignore_eos=True))
    assert tokens(together[1]) == tokens(alone)
    assert all(deltas[-1].finish_reason is FinishReason.LENGTH for deltas in together)


async def test_closing_a_stream_aborts_its_request(client: EngineClient) -> None:
    stream = client.generate(make_request("long", prompt(5), max_tokens=2000, ignore_eos=True))
    async for _ in stream:
        break
    stream.close()
    assert (await until_idle(client)).num_used_blocks == 0


async def test_requests_that_can_never_run_are_refused(client: EngineClient) -> None:
    with pytest.raises(RequestRefusedError, match="the context holds 2048 tokens") as caught:
        client.generate(make_request("r", prompt(5), max_tokens=2044))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "max_tokens")
    with pytest.raises(RequestRefusedError, match="token ids must be 0 to 100, got 101") as caught:
        client.generate(make_request("r", [5, 101]))
    assert caught.value.param == "prompt"
    with pytest.raises(RequestRefusedError, match="at least 1 token"):
        client.generate(make_request("r", []))


async def test_a_full_queue_is_refused(client: EngineClient) -> None:
    streams = [client.generate(make_request(f"q{i}", prompt(5), max_tokens=2000, ignore_eos=True)) for i in range(5)]
    firsts = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError, match="2 requests wait already") as caught:
        client.generate(make_request("one-more", prompt(5)))
    assert caught.value.retry_after_s > 0
    for first, stream in zip(firsts, streams, strict=True):
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        stream.close()
    await until_idle(client)


async def test_snapshots_arrive(client: EngineClient) -> None:
    seen: list[EngineStats] = []
    client.on_stats = seen.append
    await collect(client, make_request("s", prompt(5), ignore_eos=True))
    await until_idle(client)
    client.on_stats = None
    assert sum(len(stats.observations.step_seconds) for stats in seen) >= 16


async def test_questions_are_answered_while_it_computes(client: EngineClient) -> None:
    stream = client.generate(make_request("asked", prompt(5), max_tokens=2000, ignore_eos=True))
    await anext(stream)
    assert client.open_request_ids == ["asked"]
    snapshots = await asyncio.gather(*(client.block_snapshot() for _ in range(20)))
    assert all(snapshot is snapshots[0] for snapshot in snapshots), "one answer for all"
    assert [held.request_id for held in snapshots[0].holdings] == ["asked"]
    [state] = await client.request_states(["asked", "never"])
    assert (state.request_id, state.num_prompt_tokens) == ("asked", 5)
    assert state.kv_receipt.num_tokens >= 5
    stream.close()
    await until_idle(client)
    assert await client.request_states(["asked"]) == []
    assert (await client.block_snapshot()).holdings == []


async def test_a_killed_engine_ends_its_streams_and_comes_back(folder: Path) -> None:
    client = EngineClient("tiny", folder, settings())
    await client.start()
    await client.wait_ready()
    stream = asyncio.create_task(collect(client, make_request("r", prompt(5), max_tokens=2000, ignore_eos=True)))
    await asyncio.sleep(0.3)
    os.kill(client.pid or 0, signal.SIGKILL)
    deltas = await asyncio.wait_for(stream, 5)
    assert deltas[-1].finish_reason is FinishReason.ERROR
    assert client.state is EngineState.RESTARTING
    with pytest.raises(EngineUnavailableError, match="restarting"):
        await client.block_snapshot()
    with pytest.raises(EngineUnavailableError, match="restarting") as caught:
        client.generate(make_request("s", prompt(5)))
    assert caught.value.retry_after_s > 0
    await until(lambda: client.state is EngineState.READY)
    assert len(tokens(await collect(client, make_request("t", prompt(5), ignore_eos=True)))) == 16
    assert client.num_restarts == 1
    await client.shutdown()
    assert client.state is EngineState.STOPPED


async def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)


async def test_an_engine_that_hangs_is_killed_and_comes_back(folder: Path) -> None:
    client = EngineClient("tiny", folder, settings(step_timeout_s=1.0))
    await client.start()
    await client.wait_ready()
    pid = client.pid or 0
    stream = client.generate(make_request("r", prompt(5), max_tokens=2000, ignore_eos=True))
    await anext(stream)
    os.kill(pid, signal.SIGSTOP)
    deltas = await asyncio.wait_for(collect_rest(stream), 20)
    assert deltas[-1].error == "the engine hung while it computed this request"
    await until(lambda: client.state is EngineState.READY and client.pid != pid)
    assert len(tokens(await collect(client, make_request("t", prompt(5), ignore_eos=True)))) == 16
    assert client.num_restarts == 1
    await client.shutdown()


async def collect_rest(stream: DeltaStream) -> list[TokenDelta]:
    return [delta async for delta in stream]


async def test_a_request_that_kills_the_engine_twice_is_refused_the_third_time(folder: Path) -> None:
    client = EngineClient("tiny", folder, settings())
    await client.start()
    await client.wait_ready()
    poison = {"max_tokens": 2000, "ignore_eos": True}
    for number in range(2):
        pid = client.pid or 0
        beside = client.generate(make_request(f"beside-{number}", prompt(6, seed=number), **poison))
        stream = client.generate(make_request(f"poison-{number}", prompt(5), **poison))
        await anext(stream)
        os.kill(pid, signal.SIGKILL)
        assert (await asyncio.wait_for(collect_rest(stream), 10))[-1].is_engine_lost
        await asyncio.wait_for(collect_rest(beside), 10)
        await until(lambda pid=pid: client.state is EngineState.READY and client.pid != pid)  # type: ignore[misc]
    with pytest.raises(RequestRefusedError, match="the engine died twice of a request like this one") as caught:
        client.generate(make_request("poison-3", prompt(5), **poison))
    assert caught.value.code == "engine_killed"
    assert len(tokens(await collect(client, make_request("t", prompt(6), ignore_eos=True)))) == 16
    await client.shutdown()


async def test_a_flood_of_messages_leaves_the_event_loop_its_turns(client: EngineClient) -> None:
    handled: list[bytes] = []

    class Flood:
        async def recv(self) -> bytes:
            return b"message"  # at once, as zmq does where messages wait

    receive = client._receive
    client_handle, client._handle = client._handle, handled.append  # type: ignore[method-assign]
    task = asyncio.create_task(receive(Flood()))  # type: ignore[arg-type]
    try:
        for _ in range(10):
            await asyncio.sleep(0)
    finally:
        task.cancel()
        client._handle = client_handle  # type: ignore[method-assign]
    assert 0 < len(handled) <= 12


async def test_a_model_that_cannot_be_loaded_is_not_tried_again(tmp_path: Path) -> None:
    folder = save_model(build_model("llama"), tmp_path)
    (folder / "model.safetensors").unlink()
    client = EngineClient("broken", folder, settings())
    await client.start()
    with pytest.raises(ModelLoadError, match="safetensors"):
        await client.wait_ready()
    assert (client.state, client.num_restarts) == (EngineState.STOPPED, 0)
    await client.shutdown()


async def test_an_engine_that_still_loads_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.client, "STOP_TIMEOUT_S", 1000)
    client = EngineClient("tiny", folder, settings())
    await client.start()
    await until(lambda: client._child is not None)
    await client.shutdown()
    assert client._child is not None
    assert client._child.return_code == -signal.SIGKILL
    with pytest.raises(ModelLoadError, match="shut down while it loaded"):
        await client.wait_ready()


async def test_an_engine_started_beforehand_serves_and_ends_with_its_server(folder: Path) -> None:
    child = EngineChild()
    client = EngineClient("tiny", folder, settings(), child=child)
    await client.start()
    await client.wait_ready()
    pid = client.pid or 0
    assert pid == child.pid
    await client.shutdown()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_others_get_their_turn_between_the_deltas_of_a_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, handed_over, turns = EngineClient("tiny", folder, settings()), [], []
    monkeypatch.setattr(client._streams, "put", lambda delta: handed_over.append((delta.request_id, len(turns))))
    deltas = [TokenDelta(str(number)) for number in range(2 * DELTAS_AT_ONCE + 1)]
    dispatch = asyncio.create_task(client._dispatch(deltas))
    while not dispatch.done():
        await asyncio.sleep(0)
        turns.append(None)
    assert [request_id for request_id, _ in handed_over] == [delta.request_id for delta in deltas]
    assert len({turn for _, turn in handed_over}) == 3


async def test_what_came_of_a_step_is_handed_over_even_where_receiving_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, handed_over = EngineClient("tiny", folder, settings()), []
    monkeypatch.setattr(client._streams, "put", handed_over.append)
    dispatch = asyncio.create_task(client._dispatch([TokenDelta("r")] * 3 * DELTAS_AT_ONCE))
    await asyncio.sleep(0)
    dispatch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dispatch
    assert len(handed_over) == 3 * DELTAS_AT_ONCE
