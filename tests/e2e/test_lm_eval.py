"""The requests of lm-eval's `local-completions` and `local-chat-completions`, and how it reads the answers.

Stated here in our own words after lm-eval 0.4.13: a prompt's likelihood is asked for as an echo with one more token, whose
entry the reader leaves out; a token counts as greedy where it has the highest of the listed log-probabilities.
"""

import math
from typing import Any

import pytest

from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

CONTEXT = "The capital of France is"


def token_ids(server: ServerProcess, text: str) -> list[int]:
    ids: list[int] = server.post("/tokenize", {"model": "demo", "prompt": text}).json()["tokens"]
    return ids


def loglikelihood_body(prompt: Any, max_tokens: int = 1) -> dict[str, Any]:
    fields = {"temperature": 0, "max_tokens": max_tokens, "logprobs": 1, "seed": 1234, "echo": True}
    return {"model": "demo", "prompt": prompt, **fields}


def read_loglikelihoods(answer: dict[str, Any], context_lens: list[int]) -> list[tuple[float, bool]]:
    """Sum over each continuation, and whether greedy decoding would have given it."""
    found = []
    for choice, start in zip(sorted(answer["choices"], key=lambda c: c["index"]), context_lens, strict=True):
        values = choice["logprobs"]["token_logprobs"][start:-1]
        tops = choice["logprobs"]["top_logprobs"][start:-1]
        found.append((sum(values), all(value == max(top.values()) for value, top in zip(values, tops, strict=True))))
    return found


def test_loglikelihoods_of_a_batch_of_ids(demo_server: ServerProcess) -> None:
    contexts, continuations = [CONTEXT] * 3, [" Paris", " Berlin", " Paris."]
    context_lens = [len(token_ids(demo_server, context)) for context in contexts]
    prompts = [token_ids(demo_server, a + b) for a, b in zip(contexts, continuations, strict=True)]
    response = demo_server.post("/v1/completions", loglikelihood_body(prompts))
    assert response.status_code == 200, response.text
    paris, berlin, sentence = read_loglikelihoods(response.json(), context_lens)
    assert (paris[1], berlin[1]) == (True, False)
    assert berlin[0] < paris[0] < 0
    assert sentence[0] < paris[0]
    for choice, prompt in zip(response.json()["choices"], prompts, strict=True):
        logprobs = choice["logprobs"]
        assert len(logprobs["token_logprobs"]) == len(logprobs["top_logprobs"]) == len(prompt) + 1
        assert logprobs["token_logprobs"][0] is None
        assert all(value <= 0 and math.isfinite(value) for value in logprobs["token_logprobs"][1:])


def test_a_batch_and_no_further_token_change_nothing(demo_server: ServerProcess) -> None:
    prompt = token_ids(demo_server, CONTEXT + " Paris")
    one = demo_server.post("/v1/completions", loglikelihood_body([prompt])).json()["choices"][0]
    text = demo_server.post("/v1/completions", loglikelihood_body(CONTEXT + " Paris")).json()["choices"][0]
    bare = demo_server.post("/v1/completions", loglikelihood_body([prompt], max_tokens=0)).json()["choices"][0]
    assert one == text
    assert bare["text"] == CONTEXT + " Paris"
    assert bare["logprobs"]["token_logprobs"] == one["logprobs"]["token_logprobs"][:-1]


def test_windows_of_all_but_one_token_of_the_context_fit(tiny_server: ServerProcess) -> None:
    """Likelihoods of long texts come in such windows."""
    response = tiny_server.post("/v1/completions", {**loglikelihood_body([[5] * 127]), "model": "tiny"})
    assert response.status_code == 200
    assert len(response.json()["choices"][0]["logprobs"]["token_logprobs"]) == 128


@pytest.mark.parametrize("until", [["\n\n"], ["Question:", "</s>", "<|im_end|>"], []])
def test_generate_until(demo_server: ServerProcess, until: list[str]) -> None:
    prompts = [token_ids(demo_server, CONTEXT), token_ids(demo_server, "1, 2, 3, 4,")]
    fields = {"max_tokens": 8, "temperature": 0, "stop": until, "seed": 1234}
    response = demo_server.post("/v1/completions", {"prompt": prompts, "model": "demo", **fields})
    assert response.status_code == 200, response.text
    texts = {choice["index"]: choice["text"] for choice in response.json()["choices"]}
    assert texts[0].startswith(" Paris")
    assert texts[1].startswith(" 5, 6")
    assert not any(stop in text for stop in until for text in texts.values())


@pytest.mark.parametrize("extra", [{}, {"type": "text"}])
def test_chat_generate_until(demo_server: ServerProcess, extra: dict[str, str]) -> None:
    messages = [{**extra, "role": "user", "content": "What is the capital of France?"}]
    fields = {"max_tokens": 24, "temperature": 0, "stop": ["\n\n", "<|im_end|>"], "seed": 1234}
    response = demo_server.post("/v1/chat/completions", {"messages": messages, "model": "demo", **fields})
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    assert "Paris" in choice["message"]["content"]
