"""What an open page of the dashboard costs: tokens per second under load, with and without it, in turn.

    python -m benchmarks.open_page --output benchmarks/results/open_page.json

A page is opened in Chromium once, on an idle server, and what it asks for is written down. In the rounds that follow
these very requests are sent at the same pace while the server answers streams: a browser's own work, which belongs to
another machine, is left out. Rounds with and without alternate; the ratio is the median over pairs.
"""

import argparse
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from playwright.sync_api import Request, sync_playwright
from rich.console import Console

from benchmarks.peer_runs.http_servers import closed_loop_round, headcount_command, running
from benchmarks.report import new_report, write_report
from checkpoints.resolve import resolve_model
from server.cli.bench_load import LoadOptions
from server.cli.machine import num_cores
from server.load.prompts import WORDS
from server.tokenizer import Tokenizer

PROMPT_TOKENS, OUTPUT_TOKENS = 128, 64
SETTLE_S = 5.0
"""A page that was just opened asks for more than one that is open."""


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


def main() -> None:
    args = parse_arguments()
    folder, console = resolve_model("demo"), Console()
    command = headcount_command(folder, num_cores())
    load = LoadOptions(prompt_tokens=PROMPT_TOKENS, max_tokens=OUTPUT_TOKENS)
    bodies = load.bodies("demo", Tokenizer(folder).encode(WORDS, add_special_tokens=False))
    pages = []
    with running({"headcount": command}, {}) as urls:
        for path in args.pages:
            asked = record(urls["headcount"], path, args.record_s)
            rows = measure(urls["headcount"], bodies, asked, args)
            pages.append(summary(path, asked, rows, args.record_s))
            console.print(pages[-1])
    write_report(new_report("open_page", streams=args.streams, pages=pages), args.output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", nargs="+", default=["/", "/heads-cost", "/blocks"])
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=8, help="pairs; in each, one with the page and one without")
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


def measure(
    url: str, bodies: Iterator[dict[str, Any]], asked: list[Asked], args: argparse.Namespace
) -> list[tuple[float, float]]:
    """Tokens per second with the page and without it, pair by pair; who comes first changes."""

    def rate(*, is_open: bool) -> float:
        with replayed(url, asked if is_open else [], args.record_s):
            return closed_loop_round(url, bodies, args.streams).output_tokens_per_s

    rate(is_open=True)  # does not count
    pairs = []
    for number in range(args.rounds):
        order = (True, False) if number % 2 else (False, True)
        rates = {is_open: rate(is_open=is_open) for is_open in order}
        pairs.append((rates[True], rates[False]))
    return pairs


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


def summary(path: str, asked: list[Asked], pairs: list[tuple[float, float]], seconds: float) -> dict[str, Any]:
    ratios = sorted(with_page / without for with_page, without in pairs)
    return {
        "page": path,
        "requests_per_s": round(len(asked) / seconds, 2),
        "tokens_per_s_with": statistics.median(pair[0] for pair in pairs),
        "tokens_per_s_without": statistics.median(pair[1] for pair in pairs),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
    }


if __name__ == "__main__":
    main()
