"""Clients that behave badly on the wire: they get what they asked for or nothing, and leave nothing behind."""

import asyncio
import contextlib
import json
import random
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

LONG = {"model": "tiny", "prompt": "a b c", "max_tokens": 120, "ignore_eos": True, "stream": True}
SHORT = {"model": "tiny", "prompt": "a b c", "max_tokens": 3}


def request_bytes(body: dict[str, Any], *, is_chunked: bool = False) -> bytes:
    """A whole HTTP request."""
    content = json.dumps(body).encode()
    length = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % len(content)
    if is_chunked:
        content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n%b\r\n\r\n" % length
    return head + content


def connect(server: ServerProcess) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """What comes up to `end`, or until the other side closes."""
    received = b""
    while end not in received and (data := connection.recv(65_536)):
        received += data
    return received


def reset(connection: socket.socket) -> None:
    """Close so that the other side gets an error, not an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def check_nothing_is_left(server: ServerProcess, timeout_s: float = 10) -> None:
    """No block, no request; and the next client is served."""
    server.wait_idle(timeout_s)
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(server.get("/metrics").text)
        for sample in family.samples
    }
    assert samples["headcount_requests_running"] == samples["headcount_requests_waiting"] == 0
    assert server.post("/v1/completions", SHORT).status_code == 200


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_request_that_comes_byte_by_byte_is_answered(tiny_server: ServerProcess, is_chunked: bool) -> None:
    with connect(tiny_server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request_bytes(SHORT, is_chunked=is_chunked):
            connection.sendall(bytes([byte]))
            time.sleep(0.002)
        assert b"text_completion" in read_until(connection, b'"usage"')


def test_one_byte_a_second_holds_up_nobody(tiny_server: ServerProcess) -> None:
    with connect(tiny_server) as slow:
        data = request_bytes(SHORT)
        slow.sendall(data[:-2])
        for byte in data[-2:]:
            time.sleep(1)
            assert tiny_server.post("/v1/completions", SHORT).status_code == 200
            slow.sendall(bytes([byte]))
        assert b"200 OK" in read_until(slow, b'"usage"')


def test_a_slow_reader_gets_everything(tiny_server: ServerProcess) -> None:
    with connect(tiny_server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.sendall(request_bytes(LONG))
        received = b""
        while b"[DONE]" not in received:
            data = connection.recv(200)
            assert data, "it was cut off"
            received += data
            time.sleep(0.001)
    check_nothing_is_left(tiny_server)


def test_a_half_closed_connection_ends_its_request(tiny_server: ServerProcess) -> None:
    with connect(tiny_server) as connection:
        connection.sendall(request_bytes({**LONG, "n": 4}))
        connection.shutdown(socket.SHUT_WR)
        read_until(connection, b"nothing says this")
    check_nothing_is_left(tiny_server)


@pytest.mark.parametrize("num_chunks", [0, 1, 5])
def test_a_reset_in_the_middle_of_a_stream_ends_its_request(tiny_server: ServerProcess, num_chunks: int) -> None:
    connection = connect(tiny_server)
    connection.sendall(request_bytes({**LONG, "n": 4}))
    received = b""
    while received.count(b"data: ") < num_chunks:
        received += connection.recv(65_536)
    reset(connection)
    check_nothing_is_left(tiny_server)


def test_a_request_that_ends_half_way_is_forgotten(tiny_server: ServerProcess) -> None:
    data = request_bytes(LONG)
    for end in (5, 60, len(data) - 5):
        connection = connect(tiny_server)
        connection.sendall(data[:end])
        reset(connection)
    check_nothing_is_left(tiny_server)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
def test_what_is_no_http_is_turned_away(tiny_server: ServerProcess, data: bytes) -> None:
    with connect(tiny_server) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in read_until(connection, b"nothing says this")
    assert tiny_server.post("/v1/completions", SHORT).status_code == 200


def test_many_requests_on_one_connection(tiny_server: ServerProcess) -> None:
    with connect(tiny_server) as connection:
        connection.sendall(request_bytes(SHORT) * 3)
        received = b""
        while received.count(b'"usage"') < 3:
            received += connection.recv(65_536)
    assert received.count(b"HTTP/1.1 200") == 3


def test_100_clients_leave_at_any_moment(tiny_server: ServerProcess) -> None:
    leave_and_check(tiny_server, 100)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_1000_clients_leave_at_any_moment(tiny_server: ServerProcess) -> None:
    leave_and_check(tiny_server, 1000)


def leave_and_check(server: ServerProcess, num_clients: int) -> None:
    check_nothing_is_left(server)
    num_files = open_files(server)
    asyncio.run(leave_many(server.url, num_clients))
    # Clients leave faster than they are let in: the server finds the last of them in its queue of connections.
    check_nothing_is_left(server, timeout_s=60)
    deadline_s = time.monotonic() + 10
    while open_files(server) > num_files and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert open_files(server) <= num_files


def open_files(server: ServerProcess) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


async def leave_many(url: str, num_clients: int, at_once: int = 16) -> None:
    chooser, places = random.Random(0), asyncio.Semaphore(at_once)
    host, port = url.removeprefix("http://").split(":")

    async def leave(seed: int) -> None:
        async with places:
            await leave_once(host, int(port), random.Random(seed))

    await asyncio.gather(*(leave(chooser.getrandbits(32)) for _ in range(num_clients)))


async def leave_once(host: str, port: int, chooser: random.Random) -> None:
    """Send a request, or part of one; read some of the answer, or nothing; go, with or without a word."""
    reader, writer = await asyncio.open_connection(host, port)
    body = {
        **LONG,
        "stream": chooser.random() < 0.7,
        "n": chooser.choice([1, 1, 3]),
        "max_tokens": chooser.randint(1, 120),
    }
    data = request_bytes(body)
    writer.write(data if chooser.random() < 0.8 else data[: chooser.randrange(len(data))])
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(reader.read(chooser.choice([1, 200, 2000])), chooser.choice([0.001, 0.05, 0.3]))
    if chooser.random() < 0.5:
        writer.transport.abort()
    writer.close()
