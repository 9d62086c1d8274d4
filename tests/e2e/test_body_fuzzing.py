"""Bodies that are right or nearly right: answered or refused, never failed; and answered alike whole and streamed."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.e2e.nearly_right import MAX_TOKENS, bodies
from tests.e2e.server_process import ServerProcess
from tests.e2e.wire_checks import check_answer

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

ROUTES = ("/v1/completions", "/v1/chat/completions")
QUICK = settings(database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink])


@pytest.fixture(scope="module")
def client(tiny_server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=tiny_server.url, timeout=60) as client:
        yield client


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    """What the server says; lone surrogates and numbers of any size go out as they are."""
    content = json.dumps(body).encode()
    response = client.post(path, content=content, headers={"Content-Type": "application/json"})
    check_answer(response.status_code, response.headers["content-type"], response.text)
    assert response.status_code in (200, 400, 404), response.text
    return response


def fuzz(client: httpx.Client, path: str, limits: settings) -> None:
    @settings(limits)
    @given(bodies(path))
    def send(body: dict[str, Any]) -> None:
        post(client, path, body)

    send()


@pytest.mark.parametrize("path", ROUTES)
def test_nearly_right_bodies(client: httpx.Client, tiny_server: ServerProcess, path: str) -> None:
    fuzz(client, path, settings(QUICK, max_examples=100, derandomize=True))
    tiny_server.wait_idle()


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", ROUTES)
def test_very_many_nearly_right_bodies(client: httpx.Client, tiny_server: ServerProcess, path: str) -> None:
    fuzz(client, path, settings(QUICK, max_examples=5000))
    tiny_server.wait_idle()


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("num_cases", [40, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_streamed_and_whole_answers_are_the_same(client: httpx.Client, path: str, num_cases: int) -> None:
    @settings(QUICK, max_examples=num_cases, derandomize=True)
    @given(bodies(path, max_num_wrong=0))
    def compare(body: dict[str, Any]) -> None:
        body = {**body, "seed": 1, "best_of": None} if path == ROUTES[0] else {**body, "seed": 1}
        whole = post(client, path, body)
        streamed = post(client, path, {**body, "stream": True, "stream_options": {"include_usage": True}})
        assert whole.status_code == streamed.status_code
        if whole.status_code == 200:
            check_whole(whole.json(), body)
            compare_answers(whole.json(), streamed.text)

    compare()


def check_whole(answer: dict[str, Any], body: dict[str, Any]) -> None:
    """What the body says holds of the answer."""
    prompt = body.get("prompt")
    num_prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    assert len(answer["choices"]) == num_prompts * body.get("n", 1)
    limit = body.get("max_completion_tokens") or body.get("max_tokens", MAX_TOKENS)
    assert answer["usage"]["completion_tokens"] <= limit * len(answer["choices"])
    for choice in answer["choices"]:
        assert choice["finish_reason"] in ("stop", "length")
        if "token_ids" in choice:
            assert len(choice["token_ids"]) <= limit
            assert set(choice["token_ids"]) <= set(body.get("allowed_token_ids") or range(50_000))


def compare_answers(whole: dict[str, Any], text: str) -> None:
    """The chunks of a stream, joined, are the whole answer."""
    frames = [json.loads(frame.removeprefix("data: ")) for frame in text.split("\n\n")[:-2]]
    assert frames[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    for choice in whole["choices"]:
        parts = [part for frame in frames for part in frame["choices"] if part["index"] == choice["index"]]
        assert "".join(map(text_of, parts)) == text_of(choice)
        assert [i for part in parts for i in part.get("token_ids", [])] == choice.get("token_ids", [])
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        assert joined([part["logprobs"] for part in parts]) == joined([choice["logprobs"]])


def text_of(choice: dict[str, Any]) -> str:
    message = choice.get("message") or choice.get("delta") or {}
    return choice.get("text") or message.get("content") or ""


def joined(logprobs: list[dict[str, list[Any]] | None]) -> dict[str, list[Any]]:
    """Lists of the same name, one after the other."""
    found: dict[str, list[Any]] = {}
    for part in logprobs:
        for name, values in (part or {}).items():
            found.setdefault(name, []).extend(values)
    return found
