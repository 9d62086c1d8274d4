"""What the official client offers beside plain calls: helpers, raw responses, the asynchronous client, its errors."""

import asyncio
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

MESSAGES = [{"role": "user", "content": "hello"}]
CHAT = {"model": "tiny", "messages": MESSAGES, "max_tokens": 5, "temperature": 0}
STOPPED = {**CHAT, "logit_bias": {"50": 100}, "extra_body": {"min_tokens": 4, "stop_token_ids": [50]}}
"""Ends by itself: the helper takes an answer that is cut off for an error."""
COMPLETION = {"model": "tiny", "prompt": "hello", "max_tokens": 5, "temperature": 0}


@pytest.fixture(scope="module")
def tiny_client(tiny_server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{tiny_server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_the_streaming_helper(tiny_client: openai.OpenAI) -> None:
    with tiny_client.chat.completions.stream(**STOPPED, logprobs=True, top_logprobs=2) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done", "logprobs.content.delta", "logprobs.content.done"} <= set(events)
    whole = tiny_client.chat.completions.create(**STOPPED, logprobs=True, top_logprobs=2)
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].logprobs == whole.choices[0].logprobs
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"


def test_the_streaming_helper_left_early(tiny_client: openai.OpenAI, tiny_server: ServerProcess) -> None:
    with tiny_client.chat.completions.stream(**{**CHAT, "max_tokens": 60}) as stream:
        next(iter(stream))
    tiny_server.wait_idle()


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_raw_and_streamed_responses(tiny_client: openai.OpenAI, kind: str) -> None:
    resource, body = (tiny_client.chat.completions, CHAT) if kind == "chat" else (tiny_client.completions, COMPLETION)
    headers = {"X-Request-Id": "mine-1"}
    raw = resource.with_raw_response.create(**body, extra_headers=headers)
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.parse().choices[0].finish_reason in ("stop", "length")
    assert resource.create(**body)._request_id
    with resource.with_streaming_response.create(**body) as response:
        assert response.headers["content-type"] == "application/json"
        assert b'"choices"' in response.read()


def test_models(tiny_client: openai.OpenAI) -> None:
    assert [model.id for model in tiny_client.models.list()] == ["tiny"]
    assert tiny_client.models.retrieve("tiny").owned_by == "headcount"
    with pytest.raises(openai.NotFoundError) as missing:
        tiny_client.models.retrieve("a/b")
    assert missing.value.code == "model_not_found"


def test_the_asynchronous_client(tiny_server: ServerProcess) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{tiny_server.url}/v1", api_key="unused", max_retries=0) as client:
            answers = await asyncio.gather(*(client.chat.completions.create(**STOPPED) for _ in range(4)))
            assert len({answer.choices[0].message.content for answer in answers}) == 1
            stream = await client.completions.create(**COMPLETION, stream=True)
            text = "".join([chunk.choices[0].text async for chunk in stream])
            assert text == (await client.completions.create(**COMPLETION)).choices[0].text
            async with client.chat.completions.stream(**STOPPED) as events:
                final = await events.get_final_completion()
            assert final.choices[0].message.content == answers[0].choices[0].message.content

    asyncio.run(run())


def test_every_error_is_the_clients_own_class(tiny_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        tiny_client.chat.completions.create(**{**CHAT, "temperature": -1})
    assert (bad.value.status_code, bad.value.param, bad.value.type) == (400, "temperature", "invalid_request_error")
    assert bad.value.request_id
    with pytest.raises(openai.NotFoundError):
        tiny_client.chat.completions.create(**{**CHAT, "model": "x"})
    with pytest.raises(openai.NotFoundError):
        tiny_client.embeddings.create(model="tiny", input="x")
    with pytest.raises(openai.APITimeoutError):
        tiny_client.chat.completions.create(**{**CHAT, "max_tokens": 90}, timeout=0.0001)
    with pytest.raises(openai.APIConnectionError):
        openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="x", max_retries=0).models.list()


def test_an_error_before_a_stream_is_no_stream(tiny_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        tiny_client.completions.create(**{**COMPLETION, "max_tokens": 10_000}, stream=True)


def test_serving_extensions_through_extra_body(tiny_client: openai.OpenAI) -> None:
    extra = {"top_k": 5, "min_tokens": 5, "return_token_ids": True, "bad_words": ["x"], "prompt_logprobs": 1}
    choice = tiny_client.chat.completions.create(**CHAT, extra_body=extra).choices[0]
    assert len((choice.model_extra or {})["token_ids"]) == 5


def test_other_ways_to_ask(tiny_server: ServerProcess) -> None:
    path = tiny_server.url + "/v1/completions"
    with httpx.Client() as client:
        assert client.get(path).status_code == 405
        assert client.get(path).json()["error"]["code"] == "method_not_allowed"
        assert client.post(path + "/", json=COMPLETION).json()["error"]["code"] == "route_not_found"
        assert client.post(path, data={"model": "tiny"}).json()["error"]["code"] == "invalid_json"
        text = client.post(path, content=b'{"model": "tiny", "prompt": "a", "max_tokens": 1}')
        assert text.status_code in (200, 400)
