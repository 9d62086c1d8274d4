"""A really started server, as its user starts it."""

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx

START_TIMEOUT_S = 120
TRUST = ssl.create_default_context()
"""httpx would make one for every call, which takes longer than the call."""
LISTENING = re.compile(r"listening on (https?://\S+)")


class ServerProcess:
    """`python -m headcount serve ARGS` on a free port; leaving the context kills it if it still runs."""

    def __init__(self, *args: str, log: Path) -> None:
        self._log = log
        command = [sys.executable, "-m", "headcount", "serve", "--port", "0", *args]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADCOUNT_")}
        if "HEADCOUNT_CACHE_DIR" in os.environ:
            environment["HEADCOUNT_CACHE_DIR"] = os.environ["HEADCOUNT_CACHE_DIR"]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
        self.url = self._wait_for_url()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_ready(self) -> Self:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log}")
            if httpx.get(f"{self.url}/ready", verify=TRUST).status_code == 200:
                return self
            time.sleep(0.05)
        raise AssertionError(f"not ready in {START_TIMEOUT_S} s:\n{self.log}")

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, verify=TRUST, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, verify=TRUST, **options)

    def stream(self, path: str, body: dict[str, Any]) -> list[str]:
        """The `data:` payloads of a streamed response."""
        body = {**body, "stream": True}
        with httpx.stream("POST", self.url + path, json=body, timeout=60, verify=TRUST) as response:
            assert response.status_code == 200, response.read()
            return [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]

    def kv(self, model: str | None = None) -> dict[str, Any]:
        """The entry of /v1/kv for `model`, or for the only one."""
        entries = self.get("/v1/kv").json()["models"]
        return next(entry for entry in entries if model in (None, entry["model"]))

    def wait_until(self, holds: Callable[[dict[str, Any]], bool], timeout_s: float = 10) -> dict[str, Any]:
        """/v1/kv once `holds` is true of it; the engine's snapshots come every tenth of a second."""
        deadline_s = time.monotonic() + timeout_s
        while not holds(entry := self.kv()):
            assert time.monotonic() < deadline_s, f"it never came to that: {entry['blocks']}"
            time.sleep(0.05)
        return entry

    def wait_idle(self, timeout_s: float = 10) -> dict[str, Any]:
        """/v1/kv once no block is in use."""
        return self.wait_until(lambda entry: entry["blocks"]["used"] == 0, timeout_s)

    def engine_pids(self) -> list[int]:
        """Processes that the server has started."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"engine.process" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def _wait_for_url(self) -> str:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if found := LISTENING.search(self.log):
                return found[1]
            if self.process.poll() is not None:
                return ""
            time.sleep(0.02)
        raise AssertionError(f"the server does not listen:\n{self.log}")


def events(payloads: list[str]) -> list[dict[str, Any]]:
    """The chunks of a stream that ended as it must."""
    assert payloads[-1] == "[DONE]"
    return [json.loads(payload) for payload in payloads[:-1]]
