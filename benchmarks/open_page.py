"""What an open page of the dashboard costs: tokens and processor time under load, with and without it, in turn.

    python -m benchmarks.open_page --output benchmarks/results/open_page.json

A page is opened in Chromium once, on an idle server, and what it asks for is written down. Then streams are kept running
without a pause, and these very requests are sent at the same pace for some seconds, and not for some seconds, over and over:
a browser's own work, which belongs to another machine, is left out. Pairs are short, so that what others do to the machine
happens to both halves; the ratio is the mean over pairs and has a standard error.

The server's own processor time says the same with less noise. The engine has every core, and its threads wait for one
another: a second that the server takes from one of them costs the engine a second at most.
"""

import argparse
import asyncio
import math
import random
import shutil
import statistics
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import psutil
from playwright.sync_api import Request, sync_playwright
from rich.console import Console

from benchmarks.peer_runs.http_servers import headcount_command, running
from benchmarks.report import new_report, write_report
from benchmarks.resident_memory import engine_process
from checkpoints.resolve import resolve_model
from server.cli.bench_load import LoadOptions
from server.cli.machine import num_cores
from server.load.prompts import WORDS
from server.tokenizer import Tokenizer

PROMPT_TOKENS = 128
OUTPUT_TOKENS = range(64, 320)
"""Of all lengths, so that streams do not begin and end together."""
SETTLE_S = 5.0
"""A page that was just opened asks for more than one that is open."""
WARM_UP_S = 10.0


class Asked(NamedTuple):
    """A request of the page.

    Attributes:
        after_s: since the record began.
        method: of HTTP.
        path: with its query.
        body: None where there is none.
    """

    after_s: float
    method: str
    path: str
    body: bytes | None


class Half(NamedTuple):
    """Some seconds with the page, or without it.

    Attributes:
        tokens_per_s: that came.
        server_cpu_s: processor time of the server's process, for each second.
    """

    tokens_per_s: float
    server_cpu_s: float


def main() -> None:
    args = parse_arguments()
    folder, console = resolve_model("demo"), Console()
    command = headcount_command(folder, num_cores())
    options = LoadOptions(prompt_tokens=PROMPT_TOKENS)
    bodies = options.bodies("demo", Tokenizer(folder).encode(WORDS, add_special_tokens=False))
    pages = []
    with running({"headcount": command}, {}) as urls:
        for path in args.pages:
            asked = record(urls["headcount"], path, args.record_s)
            with load(urls["headcount"], bodies, args.streams) as arrivals_s:
                pairs = measure(urls["headcount"], asked, arrivals_s, args)
            pages.append(summary(path, asked, pairs, args.record_s))
            console.print(pages[-1])
    write_report(new_report("open_page", streams=args.streams, pages=pages), args.output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", nargs="+", default=["/", "/heads-cost", "/blocks"])
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=30, help="of seconds with the page and as many without")
    parser.add_argument("--half-s", type=float, default=4.0)
    parser.add_argument("--record-s", type=float, default=10.0)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def record(url: str, path: str, seconds: float) -> list[Asked]:
    """What a page that has been open for a while asks for in so many seconds."""
    found: list[Asked] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(url + path)
        page.wait_for_timeout(SETTLE_S * 1000)
        start_s = time.monotonic()

        def note(request: Request) -> None:
            after_s = time.monotonic() - start_s
            found.append(Asked(after_s, request.method, request.url.removeprefix(url), request.post_data_buffer))

        page.on("request", note)
        page.wait_for_timeout(seconds * 1000)
        page.remove_listener("request", note)
        browser.close()
    return found


def find_chromium() -> str:
    """The system's own.

    Raises:
        SystemExit: there is none.
    """
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if found is None:
        raise SystemExit("no Chromium is installed (Debian: apt-get install chromium)")
    return found


@contextmanager
def load(url: str, bodies: Iterator[dict[str, Any]], streams: int) -> Iterator[list[float]]:
    """So many streams at all times until the block ends; when each token came, while they come."""
    arrivals_s: list[float] = []
    loop = asyncio.new_event_loop()
    lengths = random.Random(0)

    def note(line: str) -> None:
        if line.startswith("data: {"):
            arrivals_s.append(time.perf_counter())

    async def answer(client: httpx.AsyncClient) -> None:
        while True:
            body = {**next(bodies), "max_tokens": lengths.choice(OUTPUT_TOKENS)}
            async with client.stream("POST", "/v1/completions", json=body) as response:
                async for line in response.aiter_lines():
                    note(line)

    async def answer_all() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None)) as client:
            await asyncio.gather(*(answer(client) for _ in range(streams)))

    task = loop.create_task(answer_all())
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait([task])))
    thread.start()
    try:
        yield arrivals_s
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


def measure(url: str, asked: list[Asked], arrivals_s: list[float], args: argparse.Namespace) -> list[tuple[Half, Half]]:
    """With the page and without it, pair by pair; who comes first changes."""
    server = engine_process().parent()

    def half(*, is_open: bool) -> Half:
        with replayed(url, asked if is_open else [], args.record_s):
            start_s, start_cpu_s = time.perf_counter(), cpu_s(server)
            time.sleep(args.half_s)
            end_s, end_cpu_s = time.perf_counter(), cpu_s(server)
        num_tokens = bisect_left(arrivals_s, end_s) - bisect_left(arrivals_s, start_s)
        return Half(num_tokens / (end_s - start_s), (end_cpu_s - start_cpu_s) / (end_s - start_s))

    time.sleep(WARM_UP_S)
    pairs = []
    for number in range(args.pairs):
        order = (True, False) if number % 2 else (False, True)
        halves = {is_open: half(is_open=is_open) for is_open in order}
        pairs.append((halves[True], halves[False]))
    return pairs


def cpu_s(process: psutil.Process) -> float:
    """Processor time that a process had, without its children."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def replayed(url: str, asked: list[Asked], period_s: float) -> Iterator[None]:
    """The requests again and again, at their pace, until the block ends."""
    is_over = threading.Event()

    def run() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            start_s = time.monotonic()
            while not is_over.is_set():
                for one in asked:
                    if is_over.wait(max(0.0, start_s + one.after_s - time.monotonic())):
                        return
                    client.request(one.method, one.path, content=one.body).raise_for_status()
                start_s += period_s

    thread = threading.Thread(target=run)
    if asked:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        if asked:
            thread.join()


def summary(path: str, asked: list[Asked], pairs: list[tuple[Half, Half]], seconds: float) -> dict[str, Any]:
    ratios = [with_page.tokens_per_s / without.tokens_per_s for with_page, without in pairs]
    added, added_error = added_cpu_s(pairs)
    return {
        "page": path,
        "requests_per_s": round(len(asked) / seconds, 2),
        "pairs": len(pairs),
        "tokens_per_s_with": round(statistics.mean(pair[0].tokens_per_s for pair in pairs), 2),
        "tokens_per_s_without": round(statistics.mean(pair[1].tokens_per_s for pair in pairs), 2),
        "ratio": round(statistics.mean(ratios), 4),
        "ratio_standard_error": round(statistics.stdev(ratios) / math.sqrt(len(ratios)), 4),
        "server_cpu_without": round(statistics.mean(pair[1].server_cpu_s for pair in pairs), 4),
        "server_cpu_added": round(added, 4),
        "server_cpu_added_standard_error": round(added_error, 4),
    }


def added_cpu_s(pairs: list[tuple[Half, Half]]) -> tuple[float, float]:
    """Processor time of the server that the page takes each second, and its standard error.

    Tokens take processor time too, and one half of a pair may have more of them: a least-squares fit tells the two apart.
    """
    halves = [(half, is_open) for pair in pairs for half, is_open in zip(pair, (1.0, 0.0), strict=True)]
    causes = np.array([[is_open, half.tokens_per_s, 1.0] for half, is_open in halves])
    cpu_s = np.array([half.server_cpu_s for half, _ in halves])
    found, *_ = np.linalg.lstsq(causes, cpu_s)
    variance = np.square(cpu_s - causes @ found).sum() / (len(halves) - len(found))
    return float(found[0]), math.sqrt(variance * np.linalg.inv(causes.T @ causes)[0, 0])


if __name__ == "__main__":
    main()
