"""The overview shows what /v1/kv and /metrics say at that moment."""

import pytest

from tests.dashboard.browser import Visit
from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

BODY = {"model": "tiny", "prompt": "one two three four five", "max_tokens": 8, "ignore_eos": True}


def test_the_figures_are_those_of_the_api(visit: Visit, server: ServerProcess) -> None:
    page = visit.open("/")
    page.get_by_role("button", name="tiny", exact=True).click()
    assert server.post("/v1/completions", BODY).status_code == 200
    server.wait_idle()
    metrics = server.get("/metrics").text
    for test, name in [("generated", "generation_tokens_total"), ("prompted", "prompt_tokens_total")]:
        row = next(line for line in metrics.splitlines() if line.startswith(f'headcount_{name}{{model_name="tiny"}}'))
        expected = float(row.rpartition(" ")[2])
        assert expected > 0
        visit.wait_for(
            f"number => Number(document.querySelector('[data-test={test}]')?.dataset.value) === number", expected
        )
    assert visit.number("[data-test=used]") == server.kv("tiny")["bytes"]["used"]
    visit.wait_for("() => document.querySelector('[data-test=ttft] dd').textContent !== '–'")


def test_every_model_has_its_card(visit: Visit, server: ServerProcess) -> None:
    page = visit.open("/")
    for name in ("tiny", "other"):
        kv, card = server.kv(name), f"article[data-model={name}]"
        page.wait_for_selector(card)
        assert visit.number(f"{card} [data-test=bytes-per-token]") == kv["geometry"]["bytes_per_token"]
        assert visit.number(f"{card} [data-test=capacity]") == kv["capacity"]["tokens"]
        assert page.locator(f"{card} circle").count() == kv["geometry"]["num_q_heads"]
        assert page.locator(f"{card} rect").count() == kv["geometry"]["num_kv_heads"]
        assert page.locator(f"{card} .kind").inner_text().lower() == kv["attention_type"]


def test_the_ledger_sums_to_the_device(visit: Visit, server: ServerProcess) -> None:
    page = visit.open("/")
    card = page.locator("article[data-model=tiny]")
    card.wait_for()
    pieces = [int(piece.get_attribute("data-value") or "") for piece in card.locator("[data-piece]").all()]
    assert sum(pieces) == server.kv("tiny")["ledger"]["total_bytes"]
    assert visit.number("article[data-model=tiny] [data-test=ledger-total]") == sum(pieces)
    assert (
        visit.number("article[data-model=tiny] [data-test=ledger-weights]")
        == server.kv("tiny")["ledger"]["weights_bytes"]
    )
