"""Takes the pictures of the overview and of the heads' cost that the documentation shows, of the demo under load.

    python -m tests.dashboard.screenshots docs/images/dashboard

Three variants are served side by side, a comparison runs from the page to its end, each answers alone for a while, and then
one model has streams for a minute. It takes some five minutes; other work on the machine shows in the figures.
"""

import asyncio
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, sync_playwright

from headcount import convert_heads
from tests.dashboard.browser import PHONE, launch, visiting
from tests.e2e.own_cache import own_cache
from tests.e2e.server_process import ServerProcess

VARIANTS = {"demo-mha": 9, "demo-mqa": 1}
STREAMS = 8
ALONE_S, OVERVIEW_S = 10.0, 75.0
COMPARISON_S = 1200
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "is_mobile": True, "has_touch": True},
}


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        models = ["demo"]
        for variant, num_kv_heads in VARIANTS.items():
            convert_heads("demo", folder / variant, num_kv_heads)
            models.append(f"{variant}={folder / variant}")
        patch.setenv("HEADCOUNT_CACHE_DIR", str(own_cache(folder / "cache", "kernels", "models")))
        arguments = [argument for model in models for argument in ("--model", model)]
        limits = ("--kv-cache-memory-bytes", "512MiB", "--max-model-len", "4096")
        browser = launch(playwright)
        with ServerProcess(*arguments, *limits, log=folder / "log") as server:
            server.wait_ready()
            compare(browser, server.url)
            with pictures(browser, server.url, "/heads-cost", target / "heads-cost"):
                for model in ("demo", *VARIANTS):
                    start_answers(server.url, model, ALONE_S).join()
            with pictures(browser, server.url, "/", target / "overview"):
                load = start_answers(server.url, "demo", OVERVIEW_S + 20)
                time.sleep(OVERVIEW_S)
            load.join()
        browser.close()


def start_answers(url: str, model: str, seconds: float) -> threading.Thread:
    """Keep streams of a model running for so long, in a thread: this one has Playwright's event loop."""
    thread = threading.Thread(target=lambda: asyncio.run(_answer_for(url, model, seconds)))
    thread.start()
    return thread


async def _answer_for(url: str, model: str, seconds: float) -> None:
    deadline_s = time.monotonic() + seconds

    async def answer(client: httpx.AsyncClient, index: int) -> None:
        for number in range(10_000):
            if time.monotonic() > deadline_s:
                return
            prompt = (
                "Once upon a time there was a head of attention. " * (1 + (index + number) % 6) + f"{index} {number}"
            )
            body = {"model": model, "prompt": prompt, "max_tokens": 64 + 32 * (index % 4), "ignore_eos": True}
            (await client.post("/v1/completions", json=body)).raise_for_status()

    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        await asyncio.gather(*(answer(client, index) for index in range(STREAMS)))


def compare(browser: Browser, url: str) -> None:
    """Run a comparison from the page, with what the page proposes."""
    with visiting(browser, url) as visit:
        page = visit.open("/heads-cost")
        page.locator("[data-test=start]").click()
        page.locator("[data-test=progress]").wait_for()
        page.locator("[data-test=progress]").wait_for(state="detached", timeout=COMPARISON_S * 1000)


@contextmanager
def pictures(browser: Browser, url: str, path: str, target: Path) -> Iterator[None]:
    """A page in each look, open side by side while the block runs; then a picture of each, from top to bottom."""
    with ExitStack() as stack:
        visits = {look: stack.enter_context(visiting(browser, url, **options)) for look, options in LOOKS.items()}
        pages = {look: visit.open(path) for look, visit in visits.items()}
        yield
        for look, page in pages.items():
            page.screenshot(path=f"{target}-{look}.png", full_page=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
