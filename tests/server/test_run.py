"""The socket, the signals and the end of a server, with an engine that does what it is told."""

import asyncio
import errno
import logging
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import SecretStr

from configs.errors import SettingsError
from configs.http import HTTPSettings
from engine.client import EngineState
from server import run
from server.run import DrainingServer, LoggedOnce, serve
from tests.server.fake_engine import FakeServer, events
from tests.server.running import Running

BODY = {"model": "tiny", "prompt": "hi", "max_tokens": 50, "stream": True}


def test_a_port_in_use(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve(HTTPSettings(port=port), {}) == 1
    assert f"cannot listen on 127.0.0.1:{port}: it is in use; stop the other server or choose another" in caplog.text


def test_an_address_of_another_machine(caplog: pytest.LogCaptureFixture) -> None:
    assert serve(HTTPSettings(host="192.0.2.1", port=0, insecure=True), {}) == 1
    assert "cannot listen on 192.0.2.1:0: Cannot assign" in caplog.text


def test_a_host_that_nobody_knows(caplog: pytest.LogCaptureFixture) -> None:
    assert serve(HTTPSettings(host="no such host", port=0, insecure=True), {}) == 1
    assert "cannot listen on no such host:0: " in caplog.text


def test_a_port_that_needs_rights(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(socket.socket):
        def bind(self, address: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(run.socket, "socket", Refusing)
    assert serve(HTTPSettings(port=80), {}) == 1
    assert "cannot listen on 127.0.0.1:80: Permission denied" in caplog.text


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("::1", "[::1]")])
def test_any_free_port_of_any_loopback_address(host: str, shown: str) -> None:
    try:
        listener = run._listen(HTTPSettings(host=host, port=0))
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with listener:
        address, port = listener.getsockname()[:2]
        assert port > 0
        assert run._address(address, port) == f"{shown}:{port}"
        with socket.create_connection((address, port), timeout=5):
            pass


def test_the_first_signal_lets_requests_finish_and_the_second_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "SAME_SIGNAL_S", 0.2)
    caplog.set_level(logging.INFO)
    fake = FakeServer(tmp_path, is_manual=True)
    with (
        Running(fake) as running,
        httpx.stream("POST", f"{running.url}/v1/chat/completions", json=chat_body(), timeout=10) as response,
    ):
        chunks = response.iter_text()  # held: letting go of it closes the connection
        first = next(chunks)
        for _ in range(2):  # at once: `make` forwards the terminal's
            running.server.handle_exit(signal.SIGINT, None)
        assert not running.ends_within(0.4)
        assert fake.engine.num_open == 1
        running.server.handle_exit(signal.SIGINT, None)
        assert events(first + "".join(chunks))[-1]["error"]["code"] == "draining"
        assert running.ends_within(5)
    assert "Traceback" not in caplog.text


def test_the_third_signal_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SAME_SIGNAL_S", 0.0)
    fake = FakeServer(tmp_path)
    server = DrainingServer(uvicorn.Config(fake.app), fake.state)
    for is_forced in (False, False, True):
        server.handle_exit(signal.SIGINT, None)
        assert server.force_exit == is_forced
    assert server.should_exit


def chat_body() -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def test_a_signal_with_nothing_running_ends_the_server(tmp_path: Path) -> None:
    with Running(FakeServer(tmp_path)) as running:
        response = httpx.post(f"{running.url}/v1/completions", json=BODY)
        assert events(response.text)
        running.server.handle_exit(signal.SIGTERM, None)
        assert running.ends_within(5)
        assert running.server.exit_code == 0


def test_a_drain_ends_in_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeServer(tmp_path, is_manual=True, drain_timeout_s=0.2)
    with (
        Running(fake) as running,
        httpx.stream("POST", f"{running.url}/v1/chat/completions", json=chat_body(), timeout=10) as response,
    ):
        chunks = response.iter_raw()
        next(chunks)
        running.server.handle_exit(signal.SIGTERM, None)
        assert running.ends_within(5)
    assert "1 requests were still running: they are cut off" in caplog.text


def test_a_server_without_a_model_that_loads_ends_with_an_error(tmp_path: Path) -> None:
    fake = FakeServer(tmp_path)
    with Running(fake) as running:
        fake.engine.failure, fake.engine.state = "no such tensor", EngineState.STOPPED
        assert running.ends_within(5)
        assert running.server.exit_code == 1


def test_a_bug_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeServer(tmp_path, api_key=SecretStr("k"))

    @fake.app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("a bug")

    caplog.set_level(logging.INFO)
    with Running(fake) as running:
        response = httpx.get(f"{running.url}/broken", headers={"Authorization": "Bearer k", "X-Request-Id": "mine"})
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "a bug" not in response.text
    assert caplog.text.count("RuntimeError: a bug") == 1
    assert "GET /broken 500" in caplog.text


def test_only_http_is_kept_from_being_logged_twice() -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError

    asyncio.run(LoggedOnce(fail)({"type": "http"}, fail, fail))
    with pytest.raises(RuntimeError):
        asyncio.run(LoggedOnce(fail)({"type": "lifespan"}, fail, fail))


def test_a_file_of_keys_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read the key file"):
        serve(HTTPSettings(port=0, api_key_file=tmp_path / "none"), {})


def test_hanging_up_reads_the_keys_again(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("old\n")
    with Running(FakeServer(tmp_path, api_key_file=path)) as running:
        statuses = []
        for content in ("new\n", "no good key\n"):
            path.write_text(content)
            running.call(running.server.handle_hangup)
            for key in ("old", "new"):
                response = httpx.get(f"{running.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
                statuses.append(response.status_code)
        assert statuses == [401, 200, 401, 200]


def test_hanging_up_for_want_of_a_terminal_drains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeServer(tmp_path)
    monkeypatch.setattr(run, "_has_terminal", lambda: True)
    config = run.uvicorn_config(HTTPSettings(), fake.app)
    config.load()
    server = DrainingServer(config, fake.state)
    server.handle_hangup()
    assert not fake.state.is_draining
    monkeypatch.setattr(run, "_has_terminal", lambda: False)
    server.handle_hangup()
    assert fake.state.is_draining


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [(1024, 524288, 4352), (1024, 2000, 2000), (1024, -1, 4352), (8192, 8192, None), (-1, -1, None)],
)
def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, expected: int | None
) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(run.resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(run.resource, "setrlimit", lambda _, limits: raised.append(limits))
    run._allow_connections(4096)
    assert raised == ([] if expected is None else [(expected, hard)])
