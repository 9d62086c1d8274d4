"""What a stream sends, in which order; and that a client that leaves ends its requests."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.request import FinishReason, Request, TokenDelta
from tests.server.fake_engine import OUTPUT, FakeServer, deltas_of, encode, events, say
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio

ROUTES = {
    "/v1/completions": {"model": "tiny", "prompt": "hi", "max_tokens": 50},
    "/v1/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]},
}
COMPLETIONS, CHAT = ROUTES
Body = dict[str, Any]


async def stream(server: FakeServer, route: str, **fields: Any) -> list[Body]:
    async with connect(server.app) as client:
        response = await client.post(route, json={**ROUTES[route], **fields, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    return events(response.text)


async def whole(server: FakeServer, route: str, **fields: Any) -> Body:
    async with connect(server.app) as client:
        response = await client.post(route, json={**ROUTES[route], **fields})
    assert response.status_code == 200, response.text
    answer: Body = response.json()
    return answer


def joined(chunks: list[Body]) -> dict[int, Body]:
    """Each choice, put together from its chunks as a client would."""
    choices: dict[int, Body] = {}
    for part in (part for chunk in chunks for part in chunk["choices"]):
        choice = choices.setdefault(part["index"], {"text": "", "finish_reason": None, "logprobs": None})
        choice["text"] += part["delta"].get("content", "") if "delta" in part else part["text"]
        choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]
        if "prompt_logprobs" in part:
            assert "prompt_logprobs" not in choice
            choice["prompt_logprobs"] = part["prompt_logprobs"]
        if part["logprobs"] is not None:
            lists = choice["logprobs"] or {name: [] for name in part["logprobs"]}
            choice["logprobs"] = {name: values + part["logprobs"][name] for name, values in lists.items()}
    return choices


def whole_choices(answer: Body) -> dict[int, Body]:
    choices: dict[int, Body] = {}
    for part in answer["choices"]:
        text = part["message"]["content"] if "message" in part else part["text"]
        choices[part["index"]] = {"text": text, **{name: part[name] for name in ("finish_reason", "logprobs")}}
        if "prompt_logprobs" in part:
            choices[part["index"]]["prompt_logprobs"] = part["prompt_logprobs"]
    return choices


async def test_the_order_of_a_chat(server: FakeServer) -> None:
    first, *middle, last = await stream(server, CHAT)
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert [list(chunk["choices"][0]["delta"]) for chunk in middle] == [["content"]] * len(middle)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle) == OUTPUT
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in middle)
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert {chunk["object"] for chunk in (first, *middle, last)} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in (first, *middle, last)}) == 1
    assert all("usage" not in chunk for chunk in (first, *middle, last))


async def test_the_order_of_a_completion(server: FakeServer) -> None:
    *middle, last = await stream(server, COMPLETIONS)
    assert "".join(chunk["choices"][0]["text"] for chunk in middle) == OUTPUT
    assert all(chunk["choices"][0]["text"] for chunk in middle), "no empty chunk on the way"
    assert last["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]
    assert {chunk["object"] for chunk in (*middle, last)} == {"text_completion"}


@pytest.mark.parametrize("route", ROUTES)
async def test_the_usage_comes_last_where_asked_for(server: FakeServer, route: str) -> None:
    *chunks, last = await stream(server, route, stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"] == (await whole(server, route))["usage"]
    assert last["usage"]["completion_tokens"] == len(encode(OUTPUT)) + 1
    assert all(chunk["usage"] is None for chunk in chunks)
    asked_not = await stream(server, route, stream_options={"include_usage": False})
    assert len(asked_not) == len(chunks)
    assert all("usage" not in chunk for chunk in asked_not)


@pytest.mark.parametrize("route", ROUTES)
async def test_the_usage_so_far_comes_with_every_chunk_where_asked_for(server: FakeServer, route: str) -> None:
    for ends_with_usage in (True, False):
        options = {"include_usage": ends_with_usage, "continuous_usage_stats": True}
        chunks = await stream(server, route, stream_options=options)
        numbers = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert numbers == sorted(numbers)
        assert numbers[-1] == len(encode(OUTPUT)) + 1
        assert (chunks[-1]["choices"] == []) == ends_with_usage


def says_by_seed(request: Request) -> list[TokenDelta]:
    """Another text for each choice and prompt."""
    number = (request.sampling_params.seed or 0) + len(request.prompt_token_ids)
    return deltas_of(request, encode("hello €" * (number % 5) + "ab\ncd"), cached=1)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3, "seed": 1},
        {"max_tokens": 4},
        {"stop": ["\nc", "llo €h"]},
        {"stop": "b\n", "include_stop_str_in_output": True},
        {"prompt_logprobs": 2},
        {"n": 2, "prompt_logprobs": 0, "seed": 2},
        {"min_tokens": 30, "stop": ["h"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("with_logprobs", [False, True])
async def test_a_stream_joined_is_the_whole(tmp_path: Path, route: str, fields: Body, with_logprobs: bool) -> None:
    server = FakeServer(tmp_path, says_by_seed)
    if with_logprobs:
        fields = {**fields, **({"logprobs": 2} if route == COMPLETIONS else {"logprobs": True, "top_logprobs": 2})}
    chunks = await stream(server, route, **fields, stream_options={"include_usage": True})
    answer = await whole(server, route, **fields)
    assert joined(chunks) == whole_choices(answer)
    assert chunks[-1]["usage"] == answer["usage"]


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
@pytest.mark.parametrize("logprobs", [None, 0, 2])
async def test_an_echo_streams_like_the_whole(tmp_path: Path, max_tokens: int, logprobs: int | None) -> None:
    server = FakeServer(tmp_path, says_by_seed)
    fields: Body = {"prompt": ["hi €", "a"], "n": 2, "seed": 1, "echo": True, "logprobs": logprobs}
    fields |= {"max_tokens": max_tokens}
    chunks = await stream(server, COMPLETIONS, **fields)
    answer = await whole(server, COMPLETIONS, **fields)
    assert joined(chunks) == whole_choices(answer)
    assert [choice["text"].startswith("hi €") for choice in answer["choices"]] == [True, True, False, False]


async def test_no_chunk_holds_half_a_character(tmp_path: Path) -> None:
    server = FakeServer(tmp_path, say("👩‍🚀€é"))
    texts = [chunk["choices"][0]["text"] for chunk in await stream(server, COMPLETIONS)]
    assert "".join(texts) == "👩‍🚀€é"
    assert not any("\ufffd" in text for text in texts)


async def test_nothing_in_a_text_ends_a_line(tmp_path: Path) -> None:
    text = "a" + "".join(map(chr, [*range(32), 0x7F, 0x85, 0x2028, 0x2029])) + "é€z"
    server = FakeServer(tmp_path, say(text))
    async with connect(server.app) as client:
        response = await client.post(COMPLETIONS, json={**ROUTES[COMPLETIONS], "stream": True})
    assert response.text.splitlines() == response.text.split("\n")[:-1]
    assert joined(events(response.text))[0]["text"] == text


class Connection:
    """A client of the application, message by message, that can leave."""

    def __init__(self, server: FakeServer, route: str, **fields: Any) -> None:
        self._body = json.dumps({**ROUTES[route], **fields}).encode()
        self._app, self._route = server.app, route
        self._is_gone = asyncio.Event()
        self._is_read = False
        self.sent: list[Any] = []
        self.before_send: Callable[[Any], Awaitable[None]] | None = None
        self.task = asyncio.create_task(self._run())

    def leave(self) -> None:
        self._is_gone.set()

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    async def until(self, wanted: str) -> None:
        async with asyncio.timeout(5):
            while wanted not in self.text:
                await asyncio.sleep(0.001)

    async def _run(self) -> None:
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": self._route, "headers": headers, "query_string": b""}
        await self._app({**scope, "asgi": {"version": "3.0", "spec_version": "2.3"}}, self._receive, self._send)

    async def _receive(self) -> Any:
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._is_gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self.before_send is not None:
            await self.before_send(message)
        self.sent.append(message)


async def until_open(server: FakeServer, number: int) -> None:
    async with asyncio.timeout(5):
        while server.engine.num_open != number:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("is_streaming", [True, False])
@pytest.mark.parametrize("route", ROUTES)
async def test_a_client_that_leaves_ends_all_its_requests(tmp_path: Path, route: str, is_streaming: bool) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    for number in (1, 3):
        server.engine.requests.clear()
        server.engine.aborted.clear()
        connection = Connection(server, route, stream=is_streaming, n=number)
        await until_open(server, number)
        server.engine.step()
        await asyncio.sleep(0.01)
        connection.leave()
        await asyncio.wait_for(connection.task, 1)
        assert sorted(server.engine.aborted) == sorted(request.request_id for request in server.engine.requests)
        assert len(server.engine.aborted) == number
        assert "DONE" not in connection.text
    aborted = 'headcount_requests_total{finish_reason="abort",model_name="tiny"}'
    assert server.metric(aborted) == 4
    assert server.state.num_open_requests == 0


@pytest.mark.parametrize("place", ["http.response.start", "http.response.body"])
async def test_a_client_that_leaves_while_something_is_sent(tmp_path: Path, place: str) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    connection = Connection(server, CHAT, stream=True, n=2)

    async def leave_here(message: Any) -> None:
        if message["type"] == place:
            connection.leave()
            await asyncio.sleep(10)

    connection.before_send = leave_here
    await asyncio.wait_for(connection.task, 2)
    assert len(server.engine.aborted) == 2


async def test_a_cancelled_handler_ends_its_requests(tmp_path: Path) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    for is_streaming in (True, False):
        connection = Connection(server, CHAT, stream=is_streaming, n=2)
        await until_open(server, 2)
        await asyncio.sleep(0.01)
        connection.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.task
        assert server.engine.num_open == 0


async def test_silence_is_filled_with_comments(tmp_path: Path) -> None:
    server = FakeServer(tmp_path, is_manual=True, keep_alive_interval_s=0.03)
    connection = Connection(server, CHAT, stream=True)
    await connection.until(": keep-alive\n\n: keep-alive\n\n")
    while server.engine.num_open:
        server.engine.step()
    await connection.task
    assert joined(events(connection.text))[0]["text"] == OUTPUT
    assert connection.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    num_sent = len(connection.sent)
    await asyncio.sleep(0.1)
    assert len(connection.sent) == num_sent, "nothing after the end"


async def test_a_stream_that_is_not_silent_has_no_comments(tmp_path: Path) -> None:
    server = FakeServer(tmp_path, is_manual=True, keep_alive_interval_s=0.5)
    connection = Connection(server, CHAT, stream=True)
    await until_open(server, 1)
    while server.engine.num_open:
        server.engine.step()
        await asyncio.sleep(0.005)
    await connection.task
    assert "keep-alive" not in connection.text


FAILURES: list[tuple[Body, str, int, str]] = [
    (
        {"finish_reason": FinishReason.ERROR, "error": "the engine died", "is_engine_lost": True},
        "engine_unavailable",
        503,
        "the engine died",
    ),
    (
        {"finish_reason": FinishReason.ABORT, "error": "the server is shutting down", "is_engine_lost": True},
        "draining",
        503,
        "the server is shutting down",
    ),
    (
        {"finish_reason": FinishReason.ERROR, "error": "/secret/path broke"},
        "internal_error",
        500,
        "the server failed to handle this request",
    ),
]


@pytest.mark.parametrize(("fields", "code", "status", "message"), FAILURES)
@pytest.mark.parametrize("number", [1, 3])
async def test_a_failure_on_the_way_is_one_event(
    tmp_path: Path, fields: Body, code: str, status: int, message: str, number: int
) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    connection = Connection(server, COMPLETIONS, stream=True, n=number, stream_options={"include_usage": True})
    await until_open(server, number)
    server.engine.step()
    await connection.until('"text"')
    server.engine.send_all(**fields)
    await connection.task
    *chunks, last = events(connection.text)
    assert last == {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
    assert all("error" not in chunk for chunk in chunks)
    assert server.engine.num_open == 0


@pytest.mark.parametrize(("fields", "code", "status", "message"), FAILURES)
async def test_a_failure_before_a_whole_answer_is_an_error(
    tmp_path: Path, fields: Body, code: str, status: int, message: str
) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    connection = Connection(server, CHAT, n=2)
    await until_open(server, 2)
    server.engine.step()
    server.engine.send_all(**fields)
    await connection.task
    assert connection.sent[0]["status"] == status
    error = json.loads(connection.text)["error"]
    assert (error["code"], error["message"]) == (code, message)
    assert (b"retry-after" in dict(connection.sent[0]["headers"])) == (status == 503)


async def test_a_choice_that_fails_ends_the_others(tmp_path: Path) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    connection = Connection(server, CHAT, stream=True, n=3)
    await until_open(server, 3)
    failing = server.engine.requests[1].request_id
    stream, _ = server.engine._open.pop(failing)
    stream.put(TokenDelta(failing, finish_reason=FinishReason.ERROR, error="x"))
    await connection.task
    assert len(server.engine.aborted) == 2
    assert server.metric('headcount_requests_total{finish_reason="error",model_name="tiny"}') == 1
    assert server.metric('headcount_requests_total{finish_reason="abort",model_name="tiny"}') == 2


async def test_an_output_that_a_stop_string_ends_is_aborted_in_the_engine(tmp_path: Path) -> None:
    server = FakeServer(tmp_path, is_manual=True)
    connection = Connection(server, CHAT, stream=True, stop=["o"])
    await until_open(server, 1)
    while server.engine.num_open:
        server.engine.step()
        await asyncio.sleep(0.001)
    await connection.task
    assert joined(events(connection.text))[0] == {"text": "hell", "finish_reason": "stop", "logprobs": None}
    assert len(server.engine.aborted) == 1
    assert server.metric('headcount_requests_total{finish_reason="stop",model_name="tiny"}') == 1
    assert server.metric('headcount_requests_total{finish_reason="abort",model_name="tiny"}') == 0
