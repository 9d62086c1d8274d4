"""The playground: answers stream, can be stopped, show what they cost, and stand side by side."""

import pytest
from playwright.sync_api import Page

from tests.dashboard.browser import Visit
from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

NUM_RECEIPTS = "number => document.querySelectorAll('[data-test=receipt]').length === number"


def ask(page: Page, max_tokens: int, prompt: str = "Tell me about heads") -> None:
    page.get_by_label("Go on past end-of-text").check()
    page.locator("input[name=max_tokens]").fill(str(max_tokens))
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.locator("[data-test=send]").click()


def test_a_chat_streams_and_shows_its_receipt(visit: Visit, server: ServerProcess) -> None:
    page = visit.open("/playground")
    page.get_by_label("tiny").wait_for()
    lengths = "window.lengths = new Set(); new MutationObserver(() => lengths.add(document.querySelectorAll('.token').length))"
    page.evaluate(f"{lengths}.observe(document.body, {{ childList: true, subtree: true }})")
    ask(page, 40)
    visit.wait_for(NUM_RECEIPTS, 1)
    assert page.evaluate("lengths.size") > 5
    assert "40 tokens" in page.locator("[data-test=receipt]").inner_text()
    shown = [int(row.get_attribute("data-value") or "") for row in page.locator(".receipt-row .value").all()]
    geometry = server.kv("tiny")["geometry"]
    assert shown[0] % geometry["bytes_per_block"] == 0
    ratio = geometry["num_q_heads"] // geometry["num_kv_heads"]
    assert shown == [shown[0], shown[0] * ratio, shown[0] // geometry["num_kv_heads"]]


def test_pointing_at_a_token_shows_what_else_it_could_have_been(visit: Visit) -> None:
    page = visit.open("/playground")
    page.get_by_role("button", name="Completion").click()
    page.get_by_label("tiny").wait_for()
    ask(page, 8)
    visit.wait_for(NUM_RECEIPTS, 1)
    page.locator(".token").first.hover()
    candidates = page.locator("[data-test=logprobs] .candidate")
    assert candidates.count() >= 5
    assert page.locator("[data-test=logprobs] .chosen").count() >= 1


def test_stop_ends_the_request_in_the_engine(visit: Visit, server: ServerProcess) -> None:
    before = aborted(server)
    page = visit.open("/playground")
    page.get_by_label("tiny").wait_for()
    # In the page itself: on a busy machine an answer is through before the next command comes from outside.
    stop = "if (document.querySelector('.token')) document.querySelector('[data-test=stop]')?.click()"
    page.evaluate(
        f"new MutationObserver(() => {{ {stop} }}).observe(document.body, {{ childList: true, subtree: true }})"
    )
    ask(page, 4000)
    visit.wait_for(NUM_RECEIPTS, 1)
    assert "stopped" in page.locator("[data-test=receipt]").inner_text()
    server.wait_idle()
    assert aborted(server) == before + 1


def aborted(server: ServerProcess) -> float:
    start = 'headcount_requests_total{finish_reason="abort",model_name="tiny"}'
    rows = [line for line in server.get("/metrics").text.splitlines() if line.startswith(start)]
    return float(rows[0].rpartition(" ")[2])


def test_the_same_prompt_to_two_models(visit: Visit) -> None:
    page = visit.open("/playground")
    page.get_by_label("other").check()
    page.locator("input[name=temperature]").fill("0")
    ask(page, 12)
    visit.wait_for(NUM_RECEIPTS, 2)
    texts = [answer.inner_text() for answer in page.locator(".answer .text").all()]
    assert len(texts) == 2
    assert texts[0] == texts[1]


def test_what_the_api_refuses_is_shown(visit: Visit) -> None:
    page = visit.open("/playground")
    page.get_by_label("tiny").wait_for()
    page.locator("input[name=temperature]").fill("-3")
    ask(page, 4)
    alert = page.locator(".answer [role=alert]")
    assert "temperature" in alert.inner_text()
    visit.problems = [problem for problem in visit.problems if "400" not in problem]
