"""The official openai client against the demo model."""

import json

import openai
import pytest

from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def test_models(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert model.id == "demo"
    extra = model.model_extra or {}
    assert (extra["attention_type"], extra["num_q_heads"], extra["num_kv_heads"], extra["head_dim"]) == (
        "gqa",
        9,
        3,
        64,
    )
    assert extra["kv_bytes_per_token"] == 23_040
    assert client.models.retrieve("demo").id == "demo"


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=QUESTION, temperature=0, max_tokens=24)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_streamed_equals_whole(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="demo", messages=QUESTION, temperature=0, max_tokens=24)
    chunks = list(
        client.chat.completions.create(
            model="demo",
            messages=QUESTION,
            temperature=0,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens  # type: ignore[union-attr]
    # The first request left its prompt's full blocks behind.
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 32  # type: ignore[union-attr]


def test_n_choices_with_a_seed_repeat_and_differ(client: openai.OpenAI) -> None:
    def draw() -> list[str | None]:
        answer = client.chat.completions.create(
            model="demo", messages=QUESTION, n=3, seed=11, temperature=1.5, max_tokens=16
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = draw()
    assert len(set(first)) == 3
    assert draw()[0] == first[0]


def test_chat_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=QUESTION, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    content = logprobs.content or []
    assert "".join(entry.token for entry in content) == answer.choices[0].message.content
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == entry.top_logprobs[0].logprob, "greedy takes the most probable one"
        assert bytes(entry.bytes or []).decode() == entry.token


def test_completions_in_all_prompt_shapes(client: openai.OpenAI, demo_server: ServerProcess) -> None:
    text = "The capital of France is"
    ids = demo_server.post("/tokenize", {"model": "demo", "prompt": text}).json()["tokens"]
    for prompt, number in ((text, 1), ([text, text], 2), (ids, 1), ([ids, ids], 2)):
        answer = client.completions.create(model="demo", prompt=prompt, temperature=0, max_tokens=4)
        assert [choice.text for choice in answer.choices] == [" Paris.\n\n"] * number
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(ids) * number


def test_echo_with_logprobs_scores_the_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="demo", prompt="The capital of France is Paris", max_tokens=0, echo=True, logprobs=1, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert answer.choices[0].text == "The capital of France is Paris"
    assert logprobs.tokens == ["The", " capital", " of", " France", " is", " Paris"]
    assert logprobs.text_offset == [0, 3, 11, 14, 21, 24]
    assert (logprobs.token_logprobs or [0])[0] is None
    assert max((logprobs.top_logprobs or [{}])[-1], key=lambda token: logprobs.top_logprobs[-1][token]) == " Paris"  # type: ignore[index]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_never_leak(client: openai.OpenAI, stream: bool) -> None:
    options = {"model": "demo", "prompt": "1, 2, 3, 4,", "temperature": 0, "max_tokens": 40, "stop": [" 8, 9"]}
    if stream:
        chunks = list(client.completions.create(stream=True, **options))
        pieces = [chunk.choices[0].text for chunk in chunks]
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        answer = client.completions.create(**options)
        pieces = [answer.choices[0].text]
        assert answer.choices[0].finish_reason == "stop"
    assert "".join(pieces) == " 5, 6, 7,"


def test_unicode_is_never_cut(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Repeat exactly: 你好 🌍🚀 naïve Ωμέγα"}],
        temperature=0,
        max_tokens=48,
        stream=True,
    )
    text = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert all("\ufffd" not in piece for piece in text[:-2])


def test_tokenize_and_detokenize(demo_server: ServerProcess) -> None:
    tokenized = demo_server.post("/tokenize", {"model": "demo", "prompt": "Hello, wörld", "return_token_strs": True})
    body = tokenized.json()
    assert body["count"] == len(body["tokens"])
    assert body["max_model_len"] == 8192
    back = demo_server.post("/detokenize", {"model": "demo", "tokens": body["tokens"]}).json()
    assert back == {"prompt": "Hello, wörld"}
    chat = demo_server.post("/tokenize", {"model": "demo", "messages": QUESTION}).json()
    text = demo_server.post("/detokenize", {"model": "demo", "tokens": chat["tokens"]}).json()["prompt"]
    assert text.endswith("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")


def test_errors_arrive_as_the_clients_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(model="demo", messages=QUESTION, extra_body={"temprature": 1})
    assert (unknown.value.code, unknown.value.param) == ("unknown_field", "temprature")
    assert "temperature" in unknown.value.message
    with pytest.raises(openai.BadRequestError) as too_long:
        client.completions.create(model="demo", prompt=[5] * 8000, max_tokens=193)
    assert too_long.value.code == "context_length_exceeded"
    assert all(number in too_long.value.message for number in ("8192", "8000", "193"))
    with pytest.raises(openai.BadRequestError) as out_of_vocabulary:
        client.completions.create(model="demo", prompt=[49152])
    assert out_of_vocabulary.value.param == "prompt"
    with pytest.raises(openai.BadRequestError) as malformed:
        client.completions.create(model="demo", prompt="a", temperature=-1)
    assert malformed.value.param == "temperature"


def test_malformed_json(demo_server: ServerProcess) -> None:
    response = demo_server.post(
        "/v1/completions", None, content=b"{not json", headers={"content-type": "application/json"}
    )
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"


def test_streams_are_json_lines_with_done(demo_server: ServerProcess) -> None:
    payloads = demo_server.stream("/v1/completions", {"model": "demo", "prompt": "Hi", "max_tokens": 3})
    assert payloads[-1] == "[DONE]"
    assert all(json.loads(payload)["object"] == "text_completion" for payload in payloads[:-1])
