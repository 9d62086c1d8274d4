"""A small server that speaks just enough of the API for `chat` and `bench`."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class FakeServer(ThreadingHTTPServer):
    """Answers `fake-model` requests with `pieces`; keeps what it was sent.

    Attributes:
        fail: "" to answer, "refuse" for HTTP 400, "break" for an error event after the first piece, "garble" for an event
            that is no JSON, "shorten" for one token less than a completion was to have.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pieces = ["Hel", "lo", " 🌍"]
        self.fail = ""
        self.received: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self.server.keys.append(self.headers.get("Authorization"))
        answers = {"/v1/models": {"data": [{"id": "fake-model"}, {"id": "other"}]}, "/version": {"version": "9"}}
        self._answer(answers[self.path])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append(body)
        if self.path == "/tokenize":
            self._answer({"tokens": [3, 4, 5], "count": 3})
        elif self.server.fail == "refuse":
            self._answer({"error": {"message": "too long", "type": "invalid_request_error"}}, status=400)
        else:
            self._stream(body, is_chat=self.path == "/v1/chat/completions")

    def _stream(self, body: dict[str, Any], *, is_chat: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        pieces = self.server.pieces if is_chat else ["x"] * (body["max_tokens"] - (self.server.fail == "shorten"))
        if self.server.fail == "garble":
            self.wfile.write(b"data: {\n\n")
        if is_chat:
            self._event({"choices": [{"delta": {"role": "assistant"}}]})
        for index, text in enumerate(pieces):
            if self.server.fail == "break" and index == 1:
                self._event({"error": {"message": "the engine died"}})
                return
            self._event({"choices": [{"delta": {"content": text}} if is_chat else {"text": text}]})
        self.wfile.write(b": keep-alive\n\n")
        self._event({"choices": [{"delta": {}, "text": "", "finish_reason": "length"}]})
        usage = {"prompt_tokens": len(body.get("prompt", "")), "completion_tokens": len(pieces)}
        self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _answer(self, body: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's own settings and terminal must not colour the results."""
    import os

    for name in [name for name in os.environ if name.startswith("HEADCOUNT_") and name != "HEADCOUNT_CACHE_DIR"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
