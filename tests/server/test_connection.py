"""Connections that send nothing, too much, too slowly, or do not read: each ends, and the others go on."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import Response, StreamingResponse

from configs.http import HTTPSettings
from server import run
from tests.server.fake_engine import FakeServer
from tests.server.running import Running

BODY = json.dumps({"model": "tiny", "prompt": "hi", "max_tokens": 50}).encode()
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
SHORT_S = 0.3


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    opened: list[Running] = []

    def start(fake: FakeServer | None = None, **settings: Any) -> Running:
        opened.append(Running(fake or FakeServer(tmp_path, **settings)))
        return opened[-1]

    yield start
    for running in opened:
        running.__exit__()


def connect(running: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=10)


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def error_in(response: bytes) -> tuple[int, str]:
    """Status and code of a refusal, which says that the connection ends."""
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert f"content-length: {len(body)}".encode() in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def test_whoever_says_nothing_is_closed(serve: Callable[..., Running]) -> None:
    running = serve(receive_timeout_s=SHORT_S)
    with connect(running) as silent:
        assert read_all(silent) == b""
    assert httpx.get(f"{running.url}/health").status_code == 200


def test_headers_that_take_too_long_are_a_408(serve: Callable[..., Running]) -> None:
    running = serve(receive_timeout_s=SHORT_S)
    with connect(running) as slow:
        for byte in HEAD[:8]:
            slow.sendall(bytes([byte]))
            time.sleep(0.01)
        slow.sendall(HEAD[8:])
        assert error_in(read_all(slow)) == (408, "receive_timeout")


def test_a_body_that_takes_too_long_is_a_408(serve: Callable[..., Running]) -> None:
    running = serve(receive_timeout_s=SHORT_S)
    with connect(running) as slow:
        slow.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        assert error_in(read_all(slow)) == (408, "receive_timeout")


def test_headers_without_an_end_are_a_431(serve: Callable[..., Running]) -> None:
    running = serve(max_header_bytes=4096)
    with connect(running) as endless:
        endless.sendall(HEAD)
        for number in range(100):
            try:
                endless.sendall(b"X-%d: " % number + b"x" * 100 + b"\r\n")
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.001)
        assert error_in(endless.recv(65536)) == (431, "headers_too_large")


def test_complete_headers_over_the_limit_have_a_request_id(serve: Callable[..., Running]) -> None:
    running = serve(max_header_bytes=4096)
    response = httpx.get(f"{running.url}/health", headers={"X-Long": "x" * 5000})
    assert (response.status_code, response.json()["error"]["code"]) == (431, "headers_too_large")
    assert response.headers["X-Request-Id"]


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100])
def test_what_is_no_http_is_answered_in_the_envelope(serve: Callable[..., Running], data: bytes) -> None:
    with connect(serve()) as stranger:
        stranger.sendall(data + b"\r\n\r\n")
        assert error_in(stranger.recv(65536)) == (400, "invalid_http")


def test_one_connection_too_many_is_a_503(serve: Callable[..., Running]) -> None:
    running = serve(max_num_connections=2)
    with connect(running), connect(running):
        until(lambda: running.num_connections == 2)
        with connect(running) as third:
            assert error_in(read_all(third)) == (503, "too_many_connections")
    until(lambda: running.num_connections == 0)
    assert httpx.get(f"{running.url}/health").status_code == 200


def test_a_slow_sender_within_the_limit_is_served(serve: Callable[..., Running]) -> None:
    request = HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(BODY) + BODY
    with connect(serve(receive_timeout_s=5)) as slow:
        for start in range(0, len(request), 7):
            slow.sendall(request[start : start + 7])
            time.sleep(0.002)
        assert read_all(slow).startswith(b"HTTP/1.1 200")


def test_a_client_that_closes_its_sending_half_gets_its_answer_or_frees_its_request(
    serve: Callable[..., Running], tmp_path: Path
) -> None:
    fake = FakeServer(tmp_path)
    with connect(serve(fake)) as half:
        half.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        half.shutdown(socket.SHUT_WR)
        read_all(half)
    assert fake.engine.num_open == 0


def test_a_reader_that_stops_is_cut_off(
    serve: Callable[..., Running], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeServer(tmp_path, unread_timeout_s=SHORT_S)
    ended: list[int] = []

    @fake.app.get("/flood")
    async def flood() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            num_bytes = 0
            try:
                while True:
                    yield b"x" * 100_000
                    num_bytes += 100_000
                    await asyncio.sleep(0)
            finally:
                ended.append(num_bytes)

        return StreamingResponse(pieces())

    with connect(serve(fake)) as idle:
        idle.sendall(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: bool(ended))
    assert ended[0] < 50_000_000, "what is not read is not made either"
    assert "left its response unread" in caplog.text


def test_a_reader_that_is_only_slow_gets_everything(serve: Callable[..., Running], tmp_path: Path) -> None:
    fake = FakeServer(tmp_path, unread_timeout_s=SHORT_S)

    @fake.app.get("/much")
    async def much() -> Response:
        return Response(b"x" * 10_000_000, headers={"Connection": "close"})

    with connect(serve(fake)) as slow:
        slow.sendall(b"GET /much HTTP/1.1\r\nHost: a\r\n\r\n")
        num_bytes = 0
        while piece := slow.recv(1_000_000):
            num_bytes += len(piece)
            time.sleep(SHORT_S / 20)
    assert num_bytes > 10_000_000


def test_connections_of_peers_that_are_gone_are_found_by_tcp() -> None:
    with (
        run._listen(HTTPSettings(port=0)) as listener,
        socket.create_connection(listener.getsockname()[:2]),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
