"""What heads cost: the tables are /v1/kv and POST /v1/kv/plan, the bars of a comparison its JSON."""

import pytest
from playwright.sync_api import Response

from tests.dashboard.browser import Visit
from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]


def test_the_variants_are_those_of_the_api(visit: Visit, server: ServerProcess) -> None:
    page = visit.open("/heads-cost")
    for name in ("tiny", "other"):
        for row in server.kv(name)["what_if"]:
            cells = f"tr[data-model={name}][data-kv='{row['num_kv_heads']}']"
            page.wait_for_selector(cells)
            values = [cell.get_attribute("data-value") for cell in page.locator(f"{cells} td[data-value]").all()]
            assert values == [str(row["bytes_per_token"]), str(row["tokens"])]


def test_the_planner_asks_the_server(visit: Visit, server: ServerProcess) -> None:
    page = visit.open("/heads-cost")
    page.locator("[data-test=context]").wait_for()
    page.locator("[data-test=dtype]").select_option("fp8_e4m3")
    page.locator("[data-test=batch]").fill("7")
    with page.expect_response(lambda answer: is_about(answer, 256)) as answer:
        page.locator("[data-test=context]").fill("256")
    plan = answer.value.json()
    geometry = server.kv("tiny")["geometry"]
    layers = [{name: geometry[name] for name in ("num_layers", "num_q_heads", "num_kv_heads", "head_dim")}]
    body = {"layers": layers, "dtype": "fp8_e4m3", "context": 256, "block_size": geometry["block_size"]}
    assert plan == server.post("/v1/kv/plan", body | {"memory_bytes": server.kv("tiny")["bytes"]["total"]}).json()
    for row in plan["rows"]:
        place = f".panel:has([data-test=context]) tr[data-kv='{row['num_kv_heads']}'] td[data-value]"
        visit.wait_for(
            "([place, size]) => document.querySelector(place)?.dataset.value === size",
            [place, str(7 * row["bytes_per_request"])],
        )


def is_about(answer: Response, context: int) -> bool:
    """Whether a plan for requests of so many tokens was asked for; those of the curve are about others."""
    return answer.url.endswith("/v1/kv/plan") and answer.request.post_data_json["context"] == context


def test_a_comparison_runs_and_shows_what_it_found(visit: Visit) -> None:
    page = visit.open("/heads-cost")
    page.locator("[data-test=start]").wait_for()
    panel = page.locator("[data-test=comparison]")
    panel.get_by_label("1", exact=True).uncheck()
    small = {"budget": 1, "prompt_tokens": 48, "max_tokens": 8, "num_requests": 4, "concurrency": 2}
    for name, value in small.items():
        page.locator(f"input[name={name}]").fill(str(value))
    page.locator("[data-test=start]").click()
    page.locator("[data-test=progress]").wait_for()
    page.locator("[data-test=progress]").wait_for(state="detached", timeout=120_000)
    [kept] = visit.fetch("/v1/compare")["data"]
    assert (kept["state"], kept["error"]) == ("done", None)
    result = visit.fetch(f"/v1/compare/{kept['id']}")["result"]
    assert [variant["planned"]["num_kv_heads"] for variant in result["variants"]] == [6, 2]
    for variant in result["variants"]:
        row = f"[data-test=comparison] tr[data-kv='{variant['planned']['num_kv_heads']}']"
        assert visit.number(f"{row} [data-field=planned]") == variant["planned"]["num_requests"]
        assert visit.number(f"{row} [data-field=reached]") == variant["num_requests_reached"]
        assert visit.number(f"{row} [data-field=rate]") == variant["load"]["output_tokens_per_s"]
