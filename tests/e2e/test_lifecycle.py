"""Start, failure, restart and end of the server, on a tiny model."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

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


def test_sigterm_lets_running_requests_finish(tiny_folder: Path, tmp_path: Path) -> None:
    with ServerProcess("--model", f"tiny={tiny_folder}", *KV, log=tmp_path / "log") as server:
        server.wait_ready()
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


def test_a_drain_that_takes_too_long_ends_streams_in_order(tiny_folder: Path, tmp_path: Path) -> None:
    args = ("--model", f"tiny={tiny_folder}", *KV, "--drain-timeout-s", "0.2")
    with ServerProcess(*args, log=tmp_path / "log") as server:
        server.wait_ready()
        stream = Stream(server, LONG)
        assert stream.begun.wait(10)
        server.process.terminate()
        stream.join(30)
        assert "error" in events(stream.payloads)[-1]
        assert server.process.wait(10) == 0, server.log


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


def test_two_models_side_by_side(tiny_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(
        f'[models.small]\npath = "{tiny_folder}"\nkv_cache_memory_bytes = 20000000\n'
        f'[models.wide]\npath = "{tiny_folder}"\nkv_cache_memory_bytes = 40000000\ndtype = "float64"\n'
    )
    with ServerProcess("--config", str(config), log=tmp_path / "log") as server:
        server.wait_ready()
        small, wide = server.kv("small"), server.kv("wide")
        assert small["geometry"]["bytes_per_token"] * 2 == wide["geometry"]["bytes_per_token"]
        assert small["bytes"]["total"] <= 20_000_000 < wide["bytes"]["total"] <= 40_000_000
        for model in ("small", "wide"):
            assert server.post("/v1/completions", {**LONG, "model": model, "max_tokens": 3}).status_code == 200


def test_a_key_is_asked_for_where_one_is_set(tiny_folder: Path, tmp_path: Path) -> None:
    with ServerProcess("--model", f"tiny={tiny_folder}", *KV, "--api-key", "s3cret", log=tmp_path / "log") as server:
        server.wait_ready()
        body = {**LONG, "max_tokens": 2}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            response = server.post("/v1/completions", body, headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        allowed = server.post("/v1/completions", body, headers={"Authorization": "Bearer s3cret"})
        assert allowed.status_code == 200
        assert server.get("/health").status_code == 200
        assert "s3cret" not in server.log


def test_the_engine_does_not_outlive_a_killed_server(tiny_folder: Path, tmp_path: Path) -> None:
    with ServerProcess("--model", f"tiny={tiny_folder}", *KV, log=tmp_path / "log") as server:
        server.wait_ready()
        [pid] = server.engine_pids()
        server.process.kill()
        server.process.wait()
        deadline_s = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            assert time.monotonic() < deadline_s, "the engine still runs"
            time.sleep(0.05)


def serve(*args: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself."""
    command = [sys.executable, "-m", "headcount", "serve", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_port_in_use(tiny_folder: Path, tmp_path: Path) -> None:
    with ServerProcess("--model", f"tiny={tiny_folder}", *KV, log=tmp_path / "log") as server:
        port = server.url.rpartition(":")[2]
        second = serve("--model", f"tiny={tiny_folder}", "--port", port)
    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: it is in use" in second.stderr
    assert "Traceback" not in second.stderr


def test_an_open_door_needs_a_word(tiny_folder: Path) -> None:
    refused = serve("--model", f"tiny={tiny_folder}", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "api_key" in refused.stderr
    assert "insecure" in refused.stderr


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer: expected tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "no tokenizer that can be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (
            lambda folder: (folder / "config.json").write_text(json.dumps({"architectures": ["MambaForCausalLM"]})),
            "architecture not supported: MambaForCausalLM; close to it: ",
        ),
    ],
    ids=["tokenizer-absent", "tokenizer-corrupt", "weights-absent", "config-absent", "config-corrupt", "architecture"],
)
def test_a_broken_checkpoint_ends_the_server_with_a_clear_word(
    tiny_folder: Path, tmp_path: Path, break_it: object, message: str
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in tiny_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    break_it(folder)  # type: ignore[operator]
    ended = serve("--model", f"broken={folder}", "--port", "0")
    assert ended.returncode == 1
    assert message in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
