"""Every page: it opens, on a screen and on a phone, in the dark, without an error and without leaving the host."""

import pytest
from playwright.sync_api import Browser

from server.dashboard.paths import PAGES
from tests.dashboard.browser import PHONE, Visit, visiting
from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_opens(visit: Visit, path: str) -> None:
    page = visit.open(path)
    page.wait_for_selector("[data-test=state].good")
    assert page.locator("nav [aria-current=page]").inner_text() == PAGES[path]
    assert page.title() == f"{PAGES[path]} · headcount"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_on_a_phone_in_the_dark(browser: Browser, server: ServerProcess, path: str) -> None:
    with visiting(browser, server.url, viewport=PHONE, color_scheme="dark", is_mobile=True, has_touch=True) as visit:
        page = visit.open(path)
        page.wait_for_selector("[data-test=state].good")
        assert page.evaluate("document.scrollingElement.scrollWidth <= window.innerWidth")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_theme_can_be_switched_and_stays(visit: Visit) -> None:
    page = visit.open("/")
    page.get_by_role("button", name="Dark colours").click()
    page.reload()
    page.get_by_role("button", name="Light colours").wait_for()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_page_that_nobody_looks_at_asks_for_nothing(visit: Visit) -> None:
    page = visit.open("/")
    page.wait_for_selector("[data-test=state].good")
    page.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(200)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2500)
    assert [url for url in asked if "/v1/" in url or "/metrics" in url] == []
    page.evaluate("Object.defineProperty(document, 'hidden', { value: false, configurable: true })")
    with page.expect_request("**/v1/kv"):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_quantiles_are_those_of_prometheus(visit: Visit) -> None:
    page = visit.open("/")
    page.wait_for_selector("[data-test=state]")
    found = page.evaluate(
        """async () => {
            const { quantile } = await import("headcount/metrics.js");
            const ends = [0.1, 0.2, 0.4, Infinity];
            return [[0.5, [2, 6, 8, 8]], [0.95, [2, 6, 8, 10]], [0.1, [10, 10, 10, 10]], [0.5, [0, 0, 0, 0]]]
                .map(([q, counts]) => quantile(q, ends, counts));
        }"""
    )
    assert found == [pytest.approx(0.15), 0.4, pytest.approx(0.01), None]


def test_numbers_are_written_alike(visit: Visit) -> None:
    page = visit.open("/")
    page.wait_for_selector("[data-test=state]")
    found = page.evaluate(
        """async () => {
            const { bytes, count, durationText, percent, significant, tokens } = await import("headcount/format.js");
            return [bytes(0), bytes(1023), bytes(23040), bytes(2 ** 40), bytes(-1536), count(1234567), significant(0.4261),
                durationText(0.00042), durationText(0.0124), durationText(1.5), percent(0.431), tokens(32768), count(null)];
        }"""
    )
    assert found == [
        *("0 B", "1,023 B", "22.5 KiB", "1 TiB", "-1.5 KiB", "1,234,567", "0.43"),
        *("420 µs", "12.4 ms", "1.5 s", "43.1 %", "32K", "–"),
    ]
