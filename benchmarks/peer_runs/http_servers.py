"""headcount's and llama.cpp's servers under the same closed loop, in turn."""

import asyncio
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.peer_runs.processes import REST_S, ROOT, PeerError
from server.cli.bench_load import LoadOptions
from server.cli.bench_run import run_closed_loop
from server.load.prompts import WORDS
from server.load.summary import LevelReport, sum_up
from server.tokenizer import Tokenizer

START_S = 120.0


def headcount_command(folder: Path, num_threads: int, quantization: str = "none") -> list[str]:
    """`headcount serve` of this checkout."""
    command = [sys.executable, "-m", "headcount", "serve", "--model", f"demo={folder}", "--no-enable-prefix-cache"]
    command += ["--device", "cpu", "--num-threads", str(num_threads), "--max-num-seqs", "64"]
    return command + (["--quantization", quantization] if quantization != "none" else [])


def find_llama_server(given: str | None) -> str:
    """Where llama.cpp's server is.

    Raises:
        PeerError: there is none. `python -m llama_cpp.server` is no stand-in: it answers one request at a time.
    """
    found = shutil.which(given or "llama-server")
    if found is None:
        raise PeerError("no llama-server binary: name one with --llama-server")
    return found


def llama_server_command(binary: str, gguf: Path, num_threads: int, num_streams: int) -> list[str]:
    """llama.cpp's server with a place for every stream."""
    threads = ["-t", str(num_threads), "-tb", str(num_threads)]
    return [binary, "-m", str(gguf), "-np", str(num_streams), "-c", str(256 * num_streams), *threads, "--no-webui"]


@contextmanager
def running(commands: dict[str, list[str]], skipped: dict[str, str]) -> Iterator[dict[str, str]]:
    """Name -> address of every server that starts, until the block ends; why another does not goes into `skipped`."""
    with ExitStack() as stack:
        urls = {}
        for name, command in commands.items():
            try:
                urls[name] = stack.enter_context(_running(command))
            except PeerError as error:
                skipped[f"{name} over HTTP"] = str(error)
        yield urls


def measure_http(
    urls: dict[str, str], folder: Path, streams: int, lengths: tuple[int, int], rounds: int
) -> dict[str, dict[str, Any]]:
    """Medians over rounds of every server; a round that does not count comes first.

    Args:
        urls: name -> address.
        folder: the checkpoint, for its tokenizer.
        streams: requests that are kept running.
        lengths: tokens of a prompt and of an answer.
        rounds: that count; in each, all servers take their turn.
    """
    # Another seed each time: no server may find a prompt in its cache.
    load = LoadOptions(prompt_tokens=lengths[0], max_tokens=lengths[1], seed=streams)
    bodies = load.bodies("demo", Tokenizer(folder).encode(WORDS, add_special_tokens=False))
    seen: dict[str, list[LevelReport]] = {name: [] for name in urls}
    for _ in range(rounds + 1):
        for name, url in urls.items():
            time.sleep(REST_S)
            seen[name].append(closed_loop_round(url, bodies, streams))
    return {name: _medians(levels[1:]) for name, levels in seen.items()}


def closed_loop_round(url: str, bodies: Iterator[dict[str, Any]], concurrency: int) -> LevelReport:
    """Two requests for each of `concurrency` streams, four at least."""
    return asyncio.run(_closed_loop_round(url, bodies, concurrency))


async def _closed_loop_round(url: str, bodies: Iterator[dict[str, Any]], concurrency: int) -> LevelReport:
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None)) as client:
        return sum_up(await run_closed_loop(client, bodies, concurrency, max(4, 2 * concurrency)), {})


def _medians(levels: list[LevelReport]) -> dict[str, Any]:
    """Of the figures of each round; a latency counts with its own median."""
    errors = dict(sum((Counter(level.errors) for level in levels), Counter()))
    if not all(level.ttft_s for level in levels):
        return {"skipped": f"a round without an answer: {errors}"}
    return {
        "output_tokens_per_s": statistics.median(level.output_tokens_per_s for level in levels),
        "ttft_p50_s": statistics.median(level.ttft_s["p50"] for level in levels),
        "itl_p50_s": statistics.median(level.itl_s["p50"] for level in levels),
        "num_errors": sum(level.num_errors for level in levels),
        "errors": errors,
    }


@contextmanager
def _running(command: list[str]) -> Iterator[str]:
    """The address of a server that is ready, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Both servers answer /health with 200 when they can take requests."""
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise PeerError(f"no server at {url} after {START_S:.0f} s (exit status {process.poll()})")
