"""The open requests of an engine: room, time, and readers that fall behind."""

import asyncio
from typing import Any

import pytest

from configs.scheduler import SchedulerSettings
from engine.errors import QueueFullError, RequestRefusedError
from engine.request import FinishReason, TokenDelta
from engine.streams import DeltaStream, OpenStreams
from tests.engine.tiny_models import make_request, prompt

pytestmark = pytest.mark.anyio


def open_streams(aborted: list[str] | None = None, **settings: Any) -> OpenStreams:
    closed = aborted if aborted is not None else []
    return OpenStreams(SchedulerSettings(**settings), on_close=closed.append)


async def rest_of(stream: DeltaStream) -> list[TokenDelta]:
    return [delta async for delta in stream]


async def test_places_are_counted_and_come_back() -> None:
    streams = open_streams(max_num_seqs=1, max_num_waiting=2)
    opened = [streams.add(make_request(f"r{i}", prompt(4))) for i in range(3)]
    for i in range(2):
        with pytest.raises(QueueFullError, match="2 requests wait already") as caught:
            streams.check_room([prompt(5 + i)], 1)
    assert caught.value.retry_after_s == pytest.approx(2.0, abs=0.1), "the second is told the second place"
    with pytest.raises(QueueFullError, match="2 requests wait already"):
        streams.add(make_request("one-more", prompt(4)))
    opened[0].close()
    streams.check_room([prompt(5)], 1)
    with pytest.raises(QueueFullError):
        streams.check_room([prompt(5), prompt(6)], 1)
    with pytest.raises(RequestRefusedError, match="3 choices run and wait at most, got 4") as refused:
        streams.check_room([prompt(5), prompt(6)], 2)
    assert refused.value.param == "n"


async def test_prompt_tokens_that_wait_are_counted() -> None:
    streams = open_streams(max_num_waiting_tokens=10)
    streams.check_room([prompt(1000)], 1)  # alone
    streams.add(make_request("a", prompt(6)))
    streams.check_room([prompt(2)], 2)
    with pytest.raises(QueueFullError, match="6 prompt tokens of 10 wait already, too many for 5 more"):
        streams.check_room([prompt(5)], 1)
    streams.put(TokenDelta("a", [1]))
    streams.check_room([prompt(5)], 1)
    streams.put(TokenDelta("a", [1], finish_reason=FinishReason.LENGTH))
    streams.check_room([prompt(1000)], 1)
    assert (len(streams), streams._num_waiting_tokens) == (0, 0)


async def test_a_request_ends_when_its_time_is_up() -> None:
    aborted: list[str] = []
    streams = open_streams(aborted)
    late = streams.add(make_request("late", prompt(4), timeout_s=0.05))
    streams.put(TokenDelta("late", [1]))
    early = streams.add(make_request("early", prompt(4), timeout_s=0.05))
    streams.put(TokenDelta("early", [1], finish_reason=FinishReason.STOP))
    first, last = await asyncio.wait_for(rest_of(late), 5)
    assert (first.token_ids, last.finish_reason, last.error_code) == ([1], FinishReason.ABORT, "deadline_exceeded")
    assert "0.05 s" in (last.error or "")
    assert [delta.finish_reason for delta in await rest_of(early)] == [FinishReason.STOP]
    assert aborted == ["late"]
    assert len(streams) == 0


async def test_a_reader_that_falls_behind_is_cut_off_and_keeps_what_it_has() -> None:
    aborted: list[str] = []
    streams = open_streams(aborted, max_num_unread_tokens=3)
    stream = streams.add(make_request("slow", prompt(4)))
    for i in range(6):
        streams.put(TokenDelta("slow", [i]))
    *tokens, last = await rest_of(stream)
    assert [delta.token_ids for delta in tokens] == [[0], [1], [2]]
    assert last.error_code == "slow_reader"
    assert aborted == ["slow"]


async def test_a_reader_that_keeps_up_is_never_cut_off() -> None:
    streams = open_streams(max_num_unread_tokens=1)
    stream = streams.add(make_request("r", prompt(4)))
    for i in range(6):
        streams.put(TokenDelta("r", [i]))
        assert (await anext(stream)).token_ids == [i]


async def test_a_promised_place_is_kept_for_whoever_asks_for_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("engine.streams.time.monotonic", lambda: now_s)
    streams = open_streams(max_num_seqs=2, max_num_waiting=4)
    opened = [streams.add(make_request(f"r{i}", prompt(4))) for i in range(6)]
    with pytest.raises(QueueFullError) as caught:
        streams.check_room([prompt(5)], 1)
    now_s += caught.value.retry_after_s
    opened[0].close()
    with pytest.raises(QueueFullError):
        streams.check_room([prompt(6)], 1)
    streams.check_room([prompt(5)], 1)
    now_s += 30
    streams.check_room([prompt(7)], 1)
