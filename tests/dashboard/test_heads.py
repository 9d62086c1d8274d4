"""The heads page draws what POST /v1/heads/attention answers."""

import base64

import numpy as np
import pytest

from tests.dashboard.browser import Visit
from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

TEXT = "one two three four five"


def test_every_head_shows_where_it_looks(visit: Visit, server: ServerProcess) -> None:
    page = visit.open("/heads")
    page.get_by_label("Sentence").fill(TEXT)
    page.locator("[data-test=look]").click()
    page.locator("[data-test=head]").wait_for()
    answer = server.post("/v1/heads/attention", {"model": "tiny", "prompt": TEXT}).json()
    geometry = server.kv("tiny")["geometry"]
    num_heads = geometry["num_layers"] * geometry["num_q_heads"]
    assert page.locator(".heads-cell canvas").count() == num_heads
    assert page.locator(".heads-group").count() == geometry["num_layers"] * geometry["num_kv_heads"]
    page.get_by_role("button", name="To the first token").click()
    shown = [float(cell.get_attribute("data-value") or "") for cell in page.locator(".heads-cell").all()]
    assert shown == pytest.approx(to_first_token(answer), abs=1e-6)
    page.get_by_label("layer 2, head 3", exact=True).click()
    assert page.locator("[data-test=head] h2").inner_text() == "Layer 2, head 3"
    assert page.locator("[data-test=head] .segments button").all_inner_texts() == ["3", "4", "5"]


def to_first_token(answer: dict[str, object]) -> list[float]:
    """Of every head, the mean weight of the first token for all tokens but itself."""
    layers, num_tokens = answer["layers"], len(answer["tokens"])  # type: ignore[arg-type]
    firsts = [query * (query + 1) // 2 for query in range(1, num_tokens)]
    found = []
    for layer in layers:  # type: ignore[attr-defined]
        weights = np.frombuffer(base64.b64decode(layer["weights"]), "<u2").reshape(layer["num_q_heads"], -1) / 65535
        found += weights[:, firsts].mean(1).tolist()
    return found


def test_a_text_that_is_too_long_is_refused_in_words(visit: Visit) -> None:
    page = visit.open("/heads")
    page.get_by_label("Sentence").fill("many words " * 200)
    page.locator("[data-test=look]").click()
    assert "256 tokens" in page.locator("main [role=alert]").inner_text()
    visit.problems = [problem for problem in visit.problems if "400" not in problem]
