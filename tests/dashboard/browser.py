"""A browser that notes whatever a page must not do."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
TIMEOUT_MS = 60_000
DESKTOP = {"width": 1360, "height": 900}
PHONE = {"width": 390, "height": 844}


def launch(playwright: Playwright) -> Browser:
    """The system's Chromium, see find_browser."""
    return playwright.chromium.launch(executable_path=find_browser(), args=ARGUMENTS)


def find_browser() -> str:
    """Path of the system's Chromium; without one the test is skipped, but not in CI, which installs it."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium is installed: .ci/run installs it")
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    return path


class Visit:
    """An open page.

    Attributes:
        page: Playwright's.
        problems: errors in the page's console, exceptions, and requests to another host.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.problems: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", lambda message: self._note(message.type == "error", f"console: {message.text}"))
        page.on("pageerror", lambda error: self._note(True, f"exception: {error}"))
        page.on("request", lambda request: self._note(not self._is_own(request.url), f"left the host: {request.url}"))
        page.on("websocket", lambda socket: self._note(not self._is_own(socket.url), f"left the host: {socket.url}"))

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def number(self, selector: str) -> float:
        """The exact number behind what an element shows."""
        text = self.page.locator(selector).first.get_attribute("data-value")
        assert text is not None, selector
        return float(text)

    def wait_for(self, expression: str, argument: Any = None) -> None:
        """Until a JavaScript expression is true."""
        self.page.wait_for_function(expression, arg=argument)

    def fetch(self, path: str) -> Any:
        """What the API answers at this moment, asked from the page itself."""
        return self.page.evaluate("path => fetch(path).then((answer) => answer.json())", path)

    def _is_own(self, url: str) -> bool:
        return urlsplit(url).scheme in ("data", "blob") or urlsplit(url).netloc == urlsplit(self.url).netloc

    def _note(self, is_problem: bool, text: str) -> None:
        if is_problem:
            self.problems.append(text)


@contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """A fresh window on a server; leaving it checks that nothing went wrong in the page."""
    context = browser.new_context(**{"viewport": DESKTOP, **options})
    visit = Visit(context.new_page(), url)
    try:
        yield visit
        assert visit.problems == []
    finally:
        context.close()
