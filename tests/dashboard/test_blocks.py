"""The block map: as many cells of each kind as the API counts."""

import pytest

from tests.dashboard.browser import Visit
from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

KINDS = {"f": "free", "o": "owned", "s": "shared", "c": "cached"}
SHOWN = "([name, number]) => Number(document.querySelector(`[data-test=${name}]`)?.dataset.value) === number"


def test_the_counts_are_those_of_the_api(visit: Visit, server: ServerProcess) -> None:
    prompt = "a prompt that is long enough to fill more than one block of the cache, so that it stays there"
    assert server.post("/v1/completions", {"model": "tiny", "prompt": prompt, "max_tokens": 4}).status_code == 200
    server.wait_idle()
    visit.open("/blocks")
    states = server.get("/v1/kv/blocks?model=tiny").json()["states"]
    assert states.count("c") > 0
    for letter, name in KINDS.items():
        visit.wait_for(SHOWN, [name, states.count(letter)])


def test_a_running_request_owns_its_blocks(visit: Visit) -> None:
    page = visit.open("/blocks")
    page.wait_for_selector("[data-test=owned]")
    page.evaluate(
        """() => {
            window.controller = new AbortController();
            const body = { model: "tiny", prompt: "go on", max_tokens: 4000, ignore_eos: true, stream: true };
            fetch("/v1/completions", { method: "POST", headers: { "Content-Type": "application/json" },
                body: JSON.stringify(body), signal: controller.signal }).catch(() => {});
        }"""
    )
    page.locator(".owner code").wait_for()
    assert page.locator(".owner code").inner_text().startswith("cmpl-")
    page.evaluate("controller.abort()")


def test_a_cell_says_what_it_holds(visit: Visit) -> None:
    page = visit.open("/blocks")
    page.wait_for_selector("[data-test=owned]")
    page.locator("canvas").hover(position={"x": 4, "y": 4})
    assert page.locator(".popover").inner_text().startswith("Block 0: ")
