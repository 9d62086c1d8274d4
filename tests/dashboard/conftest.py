"""One browser and one server of tiny models for all pages."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.dashboard.browser import Visit, find_browser, launch, visiting
from tests.e2e.conftest import TOKENIZER_FILES, demo_folder, tiny_folder  # noqa: F401  fixtures
from tests.e2e.own_cache import own_cache
from tests.e2e.server_process import ServerProcess

# Room for answers that still run when a page has looked: a fast machine gives a thousand tokens a second.
CACHE = ("--kv-cache-memory-bytes", "16MiB", "--max-model-len", "4096")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed after each file: as long as Playwright runs, the thread has a running event loop, and no test its own."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(
    tiny_folder: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerProcess]:
    """Two models of random weights, side by side; not started where there is no browser."""
    find_browser()
    folder = tmp_path_factory.mktemp("dashboard")
    cache = own_cache(folder / "cache", "kernels")  # so that comparisons are none of the user's
    models = ("--model", f"tiny={tiny_folder}", "--model", f"other={tiny_folder}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADCOUNT_CACHE_DIR", str(cache))
        with ServerProcess(*models, *CACHE, log=folder / "log") as server:
            yield server.wait_ready()


@pytest.fixture
def visit(browser: Browser, server: ServerProcess) -> Iterator[Visit]:
    """A window on the server."""
    with visiting(browser, server.url) as visit:
        yield visit
