"""Prometheus itself scrapes a running server, and answers every query of the Grafana board."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.monitoring import build_board
from tests.e2e.conftest import demo_folder, tiny_folder  # noqa: F401  fixtures
from tests.e2e.server_process import TRUST, ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

TIMEOUT_S = 60
CONFIG = """
global:
  scrape_interval: 500ms
scrape_configs:
  - job_name: headcount
    static_configs:
      - targets: ["{target}"]
"""
TARGETS = [target for panel in build_board()["panels"] for target in panel.get("targets", [])]


@pytest.fixture(scope="module")
def prometheus(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: F811
    """The address of a Prometheus that scrapes a server with some work behind it."""
    binary = shutil.which("prometheus")
    if binary is None:
        if os.environ.get("CI"):
            pytest.fail("prometheus is not installed: .ci/run installs it")
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    args = ("--model", f"tiny={tiny_folder}", "--max-model-len", "512", "--kv-cache-memory-bytes", "20000000")
    with ServerProcess(*args, log=folder / "server.log") as server:
        server.wait_ready()
        (folder / "prometheus.yml").write_text(CONFIG.format(target=server.url.removeprefix("http://")))
        process = _start(binary, folder)
        try:
            url = f"http://{_address(process, folder / 'log')}"
            _until(lambda: _ask(url, "up == 1"))
            _work(server)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _start(binary: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [
        *(binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
        "--web.listen-address=127.0.0.1:0",
    ]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens: it takes a free port and names it in its log."""
    found: list[str] = []

    def is_named() -> bool:
        assert process.poll() is None, log.read_text()
        words = [word for line in log.read_text().splitlines() if "Listening on" in line for word in line.split()]
        found.extend(word.removeprefix("address=") for word in words if word.startswith("address="))
        return bool(found)

    _until(is_named)
    return found[0]


def _work(server: ServerProcess) -> None:
    """Something for every metric: requests that end, one that is refused."""
    body = {"model": "tiny", "prompt": "one two three", "max_tokens": 8, "ignore_eos": True}
    for _ in range(3):
        assert server.post("/v1/completions", body).status_code == 200
    assert server.post("/v1/completions", body | {"max_tokens": 5000}).status_code == 400


def _ask(url: str, expression: str) -> list[Any]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, timeout=10, verify=TRUST).json()
    assert answer["status"] == "success", answer
    result: list[Any] = answer["data"]["result"]
    return result


def _until(holds: Any) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s, "it never came to that"
        time.sleep(0.2)


@pytest.mark.parametrize("target", TARGETS, ids=[target["expr"] for target in TARGETS])
def test_prometheus_answers_every_query_of_the_board(prometheus: str, target: dict[str, Any]) -> None:
    expression = target["expr"].replace("$__rate_interval", "1m").replace("$model", ".+")
    _until(lambda: _ask(prometheus, expression))


def test_what_prometheus_stored_is_what_the_server_did(prometheus: str) -> None:
    _until(lambda: _value(prometheus, "headcount_generation_tokens_total") == 24)
    assert _value(prometheus, 'headcount_requests_total{finish_reason="length"}') == 3
    assert _value(prometheus, "headcount_rejected_requests_total") == 1


def _value(url: str, expression: str) -> float | None:
    found = _ask(url, expression)
    return float(found[0]["value"][1]) if found else None
