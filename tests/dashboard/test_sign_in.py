"""Where the server asks for a key, so does the dashboard; and a server that goes away is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.dashboard.browser import visiting
from tests.dashboard.conftest import CACHE
from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

KEY = "s3cret"


@pytest.fixture
def locked(browser: Browser, tiny_folder: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    arguments = ("--model", f"tiny={tiny_folder}", "--api-key", KEY, *CACHE)
    with ServerProcess(*arguments, log=tmp_path / "log") as server:
        yield server.wait_ready()


def test_the_key_opens_the_pages_in_this_tab_only(browser: Browser, locked: ServerProcess) -> None:
    with visiting(browser, locked.url) as visit:
        page = visit.open("/blocks")
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text("not this server's key").wait_for()
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_selector("[data-test=free]")
        assert page.url.endswith("/blocks")
        assert page.evaluate(
            "Object.values(localStorage).concat(document.cookie).every((text) => !text.includes('s3cret'))"
        )
        page.goto(f"{locked.url}/")
        page.wait_for_selector("article[data-model=tiny]")
        locked.process.kill()
        page.get_by_text("cannot be reached").first.wait_for()
        assert page.locator("article[data-model=tiny]").count() == 1
        expected = ("401", "ERR_CONNECTION_REFUSED", "WebSocket", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET")
        visit.problems = [problem for problem in visit.problems if not any(word in problem for word in expected)]
