"""The heads page draws what POST /v1/heads/attention answers, and what `headcount heads inspect` wrote."""

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from playwright.sync_api import Locator, Page
from torch import Tensor

from heads import patterns
from heads.inspection import inspect_heads
from heads.results import HeadFigures, Inspection
from tests.dashboard.browser import Visit
from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

TEXT = "one two, three four. Five"
TITLES = {
    "previous_token": "Previous token",
    "first_token": "First token",
    "delimiter": "Delimiters",
    "induction": "Induction",
    "entropy": "Entropy",
    "nearest_distance": "Nearest distance",
    "importance": "Importance",
    "relative_importance": "Relative importance",
}


def look(page: Page, text: str) -> None:
    page.get_by_label("Sentence").fill(text)
    page.locator("[data-test=look]").click()


def values_shown(grid: Locator, name: str) -> list[float]:
    """The figure of every head, once the page has it."""
    grid.get_by_role("button", name=TITLES[name], exact=True).click()
    grid.locator(".heads-cell[data-value]").first.wait_for()
    return [float(cell.get_attribute("data-value") or "") for cell in grid.locator(".heads-cell").all()]


def unpack(answer: dict[str, Any]) -> list[Tensor]:
    """A layer each, [num_q_heads, num_tokens, num_tokens]."""
    num_tokens, found = len(answer["tokens"]), []
    for layer in answer["layers"]:
        numbers = np.frombuffer(base64.b64decode(layer["weights"]), "<u2").reshape(layer["num_q_heads"], -1)
        weights = torch.zeros(layer["num_q_heads"], num_tokens, num_tokens, dtype=torch.float64)
        weights[:, *torch.tril_indices(num_tokens, num_tokens)] = torch.from_numpy(numbers / 65535)
        found.append(weights)
    return found


def nearest_distance(weights: Tensor) -> Tensor:
    return patterns.js_divergence(weights).fill_diagonal_(torch.inf).min(1).values


def test_every_head_shows_where_it_looks(visit: Visit, server: ServerProcess) -> None:
    page = visit.open("/heads")
    look(page, TEXT)
    page.locator("[data-test=head]").wait_for()
    geometry = server.kv("tiny")["geometry"]
    num_heads = geometry["num_layers"] * geometry["num_q_heads"]
    assert page.locator(".heads-cell canvas").count() == num_heads
    assert page.locator(".heads-group").count() == geometry["num_layers"] * geometry["num_kv_heads"]
    page.get_by_label("layer 2, head 3", exact=True).click()
    assert page.locator("[data-test=head] h2").inner_text() == "Layer 2, head 3"
    assert page.locator("[data-test=head] .segments button").all_inner_texts() == ["3", "4", "5"]


def test_figures_are_those_of_the_answer(visit: Visit, server: ServerProcess) -> None:
    page = visit.open("/heads")
    look(page, TEXT)
    grid = page.locator("[data-test=attention] .heads-model")
    answer = server.post("/v1/heads/attention", {"model": "tiny", "prompt": TEXT}).json()
    is_delimiter = torch.tensor(answer["is_delimiter"])
    assert answer["tokens"] == ["one", " two", ",", " three", " four", ".", " Five"]
    assert is_delimiter.tolist() == [token in ",." for token in answer["tokens"]]
    layers = unpack(answer)
    for name, read in {
        "previous_token": patterns.previous_token,
        "first_token": patterns.first_token,
        "delimiter": lambda weights: patterns.share_of(weights, is_delimiter),
        "entropy": patterns.entropy,
        "nearest_distance": nearest_distance,
    }.items():
        expected = torch.cat([read(weights) for weights in layers]).tolist()
        assert values_shown(grid, name) == pytest.approx(expected, abs=1e-9), name


def test_induction_is_scored_over_random_tokens_twice(visit: Visit, server: ServerProcess) -> None:
    page = visit.open("/heads")
    look(page, TEXT)
    grid = page.locator("[data-test=attention] .heads-model")
    grid.wait_for()
    with page.expect_request("**/v1/heads/attention") as asked:
        shown = values_shown(grid, "induction")
    body = json.loads(asked.value.post_data or "")
    assert body["prompt"][:64] == body["prompt"][64:]
    assert len(set(body["prompt"])) > 60
    expected = torch.cat([patterns.induction(each) for each in unpack(server.post("/v1/heads/attention", body).json())])
    assert shown == pytest.approx(expected.tolist(), abs=1e-9)


def test_layers_are_asked_for_in_parts_where_one_answer_cannot_hold_them(visit: Visit) -> None:
    page = visit.open("/heads")
    page.wait_for_selector("[data-test=look]")
    asked: list[Any] = []
    page.on("request", lambda request: asked.append(request.post_data_json) if request.method == "POST" else None)
    score = """async (numHeads) => {
        const { inductionScores } = await import("headcount/induction.js");
        return inductionScores("tiny", [0, 1, 2].map((layer_idx) => ({ layer_idx, num_q_heads: numHeads })));
    }"""
    at_once, in_parts = page.evaluate(score, 6), page.evaluate(score, 500)
    assert [body["layers"] for body in asked] == [[0, 1, 2], [0, 1], [2]]
    assert at_once == in_parts


def test_a_text_that_is_too_long_is_refused_in_words(visit: Visit) -> None:
    page = visit.open("/heads")
    look(page, "many words " * 200)
    assert "256 tokens" in page.locator("main [role=alert]").inner_text()
    visit.problems = [problem for problem in visit.problems if "400" not in problem]


@pytest.fixture(scope="module")
def inspection(tiny_folder: Path) -> Inspection:
    return inspect_heads(tiny_folder, f"{TEXT}. " * 8, window_tokens=32, model="tiny")


def test_an_inspection_is_shown_figure_by_figure(visit: Visit, inspection: Inspection, tmp_path: Path) -> None:
    page = visit.open("/heads")
    file = tmp_path / "heads.json"
    file.write_bytes(msgspec.json.encode(inspection))
    page.get_by_label("Inspection").set_input_files(file)
    grid = page.locator("[data-test=inspection] .heads-model")
    assert grid.locator("[aria-pressed=true]").first.inner_text() == "Importance"
    for name in TITLES:
        expected = [getattr(head, name) for head in inspection.heads]
        assert values_shown(grid, name) == expected, name
    assert set(TITLES) == set(HeadFigures.__struct_fields__) - {"layer", "head", "kv_head"}
    strongest = max(inspection.heads, key=lambda head: head.importance)
    values_shown(grid, "importance")
    cell = grid.get_by_label(f"layer {strongest.layer}, head {strongest.head}", exact=True)
    title, value = (cell.get_attribute("title") or "").split(": ")
    assert title == f"layer {strongest.layer}, head {strongest.head}, KV head {strongest.kv_head}"
    assert float(value) == strongest.importance
    assert cell.locator("span").evaluate("element => getComputedStyle(element).opacity") == "1"
    cell.click()
    panel = page.locator("[data-test=inspected-head]")
    assert panel.locator("h2").inner_text() == f"Layer {strongest.layer}, head {strongest.head}"
    pairs = [float(one.get_attribute("data-value") or "") for one in panel.locator(".pairs").first.locator("i").all()]
    assert pairs == [value for row in inspection.js_divergence[strongest.layer] for value in row]


def test_a_file_that_is_no_inspection_is_refused_in_words(visit: Visit, inspection: Inspection, tmp_path: Path) -> None:
    page = visit.open("/heads")
    plain = msgspec.to_builtins(inspection)
    first, *others = plain["heads"]
    for content, says in (
        ("{", "it is not JSON"),
        ("[1, 2]", "it has no list of `heads`"),
        (json.dumps(plain | {"loss": None}), "`loss` must be a number, got null"),
        (
            json.dumps(plain | {"heads": [{**first, "importance": None}, *others]}),
            "heads[0].importance must be a number",
        ),
        (json.dumps(plain | {"heads": [{**first, "kv_head": 1}, *others]}), "head 0 must read KV head 0 of 2, got 1"),
        (json.dumps(plain | {"heads": others}), "the heads of layer 0 must be 0 to 4, each once"),
        (json.dumps(plain | {"js_divergence": []}), "`js_divergence` must have 6 times 6 numbers for layer 0"),
    ):
        file = tmp_path / "wrong.json"
        file.write_text(content)
        page.get_by_label("Inspection").set_input_files(file)
        shown = page.locator("main [role=alert]").filter(has_text=says)
        shown.wait_for()
        assert shown.inner_text().startswith("wrong.json is no inspection of heads: ")
        assert "headcount heads inspect MODEL" in shown.inner_text()
    assert page.locator("[data-test=inspection]").count() == 0
