"""Start, failure, restart and end of the server, on a tiny model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import API_KEY
from tests.e2e.server_process import ServerProcess, events

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

LONG = {"model": "tiny", "prompt": "a b c", "max_tokens": 3000, "ignore_eos": True}
KV = ("--kv-cache-memory-bytes", "50000000")


class Stream(threading.Thread):
    """Reads a streamed completion in the background."""

    def __init__(self, server: ServerProcess, body: dict[str, object]) -> None:
        super().__init__()
        self._server, self._body = server, body
        self.payloads: list[str] = []
        self.begun = threading.Event()
        self.start()

    def run(self) -> None:
        body = {**self._body, "stream": True}
        with httpx.stream("POST", f"{self._server.url}/v1/completions", json=body, timeout=60) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    self.payloads.append(line.removeprefix("data: "))
                    self.begun.set()


@pytest.fixture(scope="module")
def doomed(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ServerProcess]]:
    """A server for each test that ends one, all started side by side."""
    options = {"drained": (), "hurried": ("--drain-timeout-s", "0.2"), "killed": ()}
    folder = tmp_path_factory.mktemp("doomed")
    with ExitStack() as stack, ThreadPoolExecutor(len(options)) as threads:

        def start(name: str) -> ServerProcess:
            args = ("--model", f"tiny={tiny_folder}", *KV, *options[name])
            return stack.enter_context(ServerProcess(*args, log=folder / name)).wait_ready()

        yield dict(zip(options, threads.map(start, options), strict=True))


def test_sigterm_lets_running_requests_finish(doomed: dict[str, ServerProcess]) -> None:
    server = doomed["drained"]
    stream = Stream(server, {**LONG, "max_tokens": 300})
    assert stream.begun.wait(10)
    server.process.terminate()
    time.sleep(0.3)
    refused = server.post("/v1/completions", LONG)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert refused.headers["retry-after"]
    assert server.get("/ready").status_code == 503
    stream.join(30)
    assert events(stream.payloads)[-1]["choices"][0]["finish_reason"] == "length"
    assert server.process.wait(10) == 0, server.log


def test_a_drain_that_takes_too_long_ends_streams_in_order(doomed: dict[str, ServerProcess]) -> None:
    server = doomed["hurried"]
    stream = Stream(server, LONG)
    assert stream.begun.wait(10)
    server.process.terminate()
    stream.join(30)
    assert "error" in events(stream.payloads)[-1]
    assert server.process.wait(10) == 0, server.log


def test_the_engine_does_not_outlive_a_killed_server(doomed: dict[str, ServerProcess]) -> None:
    server = doomed["killed"]
    [pid] = server.engine_pids()
    server.process.kill()
    server.process.wait()
    deadline_s = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline_s, "the engine still runs"
        time.sleep(0.05)


def test_a_dead_engine_is_reported_and_restarted(tiny_folder: Path, tmp_path: Path) -> None:
    args = ("--model", f"tiny={tiny_folder}", "--model", f"other={tiny_folder}", *KV)
    with ServerProcess(*args, log=tmp_path / "log") as server:
        server.wait_ready()
        stream = Stream(server, LONG)
        assert stream.begun.wait(10)
        os.kill(server.engine_pids()[0], signal.SIGKILL)
        stream.join(10)
        *chunks, last = events(stream.payloads)
        assert last["error"]["code"] == "engine_unavailable"
        assert all("error" not in chunk for chunk in chunks)
        health = server.get("/health")
        assert health.status_code == 503
        assert "tiny" in health.text
        refused = server.post("/v1/completions", LONG)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert refused.headers["retry-after"]
        other = server.post("/v1/completions", {**LONG, "model": "other", "max_tokens": 3})
        assert other.status_code == 200, "the other model's engine lives on"
        deadline_s = time.monotonic() + 60
        while server.get("/health").status_code != 200:
            assert time.monotonic() < deadline_s, server.log
            time.sleep(0.1)
        assert server.post("/v1/completions", {**LONG, "max_tokens": 3}).status_code == 200
        assert 'headcount_engine_restarts_total{model_name="tiny"} 1.0' in server.get("/metrics").text


def test_two_models_side_by_side_are_told_apart(tiny_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(
        f'[models.small]\npath = "{tiny_folder}"\nkv_cache_memory_bytes = 20000000\n'
        f'[models.wide]\npath = "{tiny_folder}"\nkv_cache_memory_bytes = 40000000\ndtype = "float64"\n'
    )
    with ServerProcess("--config", str(config), log=tmp_path / "log") as server:
        server.wait_ready()
        assert len(server.engine_pids()) == 2, "an engine process each"
        assert [entry["id"] for entry in server.get("/v1/models").json()["data"]] == ["small", "wide"]
        assert [engine["model"] for engine in server.get("/health").json()["engines"]] == ["small", "wide"]
        small, wide = server.kv("small"), server.kv("wide")
        assert small["geometry"]["bytes_per_token"] * 2 == wide["geometry"]["bytes_per_token"]
        assert small["bytes"]["total"] <= 20_000_000 < wide["bytes"]["total"] <= 40_000_000
        numbers = {"small": 3, "wide": 7}
        for model, max_tokens in numbers.items():
            answer = server.post("/v1/completions", {**LONG, "model": model, "max_tokens": max_tokens})
            assert (answer.status_code, answer.json()["model"]) == (200, model)
        assert server.post("/tokenize", {"model": "wide", "prompt": "hello"}).status_code == 200
        metrics = server.get("/metrics").text
        for model, max_tokens in numbers.items():
            assert f'headcount_generation_tokens_total{{model_name="{model}"}} {max_tokens}.0' in metrics
            assert f'headcount_engine_up{{model_name="{model}"}} 1.0' in metrics
        unknown = server.post("/v1/completions", {"model": "c", "prompt": "hello"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_a_key_is_asked_for_where_one_is_set(keyed_server: ServerProcess) -> None:
    body = {**LONG, "max_tokens": 2}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": API_KEY}):
        response = keyed_server.post("/v1/completions", body, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    allowed = keyed_server.post("/v1/completions", body, headers={"Authorization": f"Bearer {API_KEY}"})
    assert allowed.status_code == 200
    assert keyed_server.get("/health").status_code == 200
    assert API_KEY not in keyed_server.log


def serve(*args: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself."""
    command = [sys.executable, "-m", "headcount", "serve", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_port_in_use(tiny_server: ServerProcess, tiny_folder: Path) -> None:
    port = tiny_server.url.rpartition(":")[2]
    second = serve("--model", f"tiny={tiny_folder}", "--port", port)
    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: it is in use" in second.stderr
    assert "Traceback" not in second.stderr


def test_an_open_door_needs_a_word(tiny_folder: Path) -> None:
    refused = serve("--model", f"tiny={tiny_folder}", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "api_key" in refused.stderr
    assert "insecure" in refused.stderr


MAMBA = json.dumps({"architectures": ["MambaForCausalLM"]})
BROKEN: dict[str, tuple[str, str | None, str]] = {
    "tokenizer-absent": ("tokenizer.json", None, "has no tokenizer: expected tokenizer.json"),
    "tokenizer-corrupt": ("tokenizer.json", "{}", "no tokenizer that can be read"),
    "weights-absent": ("model.safetensors", None, "safetensors"),
    "config-absent": ("config.json", None, "config.json"),
    "config-corrupt": ("config.json", "{", "config.json"),
    "architecture": ("config.json", MAMBA, "architecture not supported: MambaForCausalLM; close to it: "),
}
"""The file of a checkpoint that is broken, what it holds (None: it is absent), and what is said then."""


@pytest.fixture(scope="module")
def broken(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """How a server ends with each of the broken checkpoints, all started side by side."""

    def serve_broken(name: str) -> subprocess.CompletedProcess[str]:
        folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("broken") / name)
        file, content, _ = BROKEN[name]
        (folder / file).unlink()
        if content is not None:
            (folder / file).write_text(content)
        return serve("--model", f"broken={folder}", "--port", "0")

    with ThreadPoolExecutor(len(BROKEN)) as threads:
        return dict(zip(BROKEN, threads.map(serve_broken, BROKEN), strict=True))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_checkpoint_ends_the_server_with_a_clear_word(
    broken: dict[str, subprocess.CompletedProcess[str]], name: str
) -> None:
    ended = broken[name]
    assert ended.returncode == 1
    assert BROKEN[name][-1] in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
