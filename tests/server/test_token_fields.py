"""Fields about tokens: which may come out, which are kept of a prompt, and telling their ids."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tokenizers import AddedToken

from engine.request import Request, TokenDelta
from server.bad_words import spell_bad_words
from server.chat import ChatTemplates
from server.chat_template import ChatTemplate, TemplateSource
from server.infill import FORMS
from server.tokenizer import Tokenizer
from tests.server import tiny_tokenizers as tiny
from tests.server.fake_engine import EOS_ID, VOCABULARY, FakeServer, deltas_of, encode, events, say
from tests.server.stand_ins import connect

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "hi"}]
ROUTES = ("/v1/completions", "/v1/chat/completions")


async def post(server: FakeServer, path: str = "/v1/completions", **fields: Any) -> Any:
    prompt = {"prompt": "hi", "max_tokens": 50} if path == "/v1/completions" else {"messages": HI}
    async with connect(server.app) as client:
        return await client.post(path, json={"model": "tiny", **prompt, **fields})


async def refused(server: FakeServer, path: str = "/v1/completions", **fields: Any) -> dict[str, Any]:
    response = await post(server, path, **fields)
    assert response.status_code == 400, response.text
    assert server.engine.requests == []
    error: dict[str, Any] = response.json()["error"]
    return error


def ids(*tokens: str) -> tuple[int, ...]:
    return tuple(VOCABULARY[token] for token in tokens)


@pytest.mark.parametrize("path", ROUTES)
async def test_bad_words_arrive_in_each_spelling(server: FakeServer, path: str) -> None:
    assert (await post(server, path, bad_words=["hello", "hel", "é"])).status_code == 200
    [request] = server.engine.requests
    assert request.sampling_params.bad_words_token_ids == (
        *(ids("hello"), ids("Ġhello")),
        *(ids("he", "l"), ids("Ġ", "he", "l")),
        *(ids("Ã©"), ids("Ġ", "Ã©")),
    )


def test_tokenizers_that_begin_with_a_blank_spell_words_within_a_text_too(tmp_path: Path) -> None:
    vocabulary = tiny.sentencepiece().get_vocab()
    tokenizer = Tokenizer(tiny.save(tiny.sentencepiece(), tmp_path))
    spelled = spell_bad_words(["hello"], tokenizer)
    assert (vocabulary["▁hello"],) in spelled
    assert (vocabulary["hello"],) in spelled


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"bad_words": [""]}, "bad_words[0]"),
        ({"bad_words": ["x" * 65]}, "bad_words[0]"),
        ({"bad_words": ["x"] * 65}, "bad_words"),
        ({"bad_words": "x"}, "bad_words"),
        ({"bad_words": ["a", "b"], "allowed_token_ids": [*ids("a"), *ids("b")]}, "allowed_token_ids"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [len(VOCABULARY)]}, "allowed_token_ids"),
        ({"allowed_token_ids": list(range(1025))}, "allowed_token_ids"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 1.5}, "truncate_prompt_tokens"),
    ],
)
@pytest.mark.parametrize("path", ROUTES)
async def test_what_cannot_be_is_refused(server: FakeServer, path: str, fields: dict[str, Any], param: str) -> None:
    assert (await refused(server, path, **fields))["param"] == param


async def test_allowed_token_ids_arrive(server: FakeServer) -> None:
    await post(server, allowed_token_ids=[5, 3], n=2)
    assert [request.sampling_params.allowed_token_ids for request in server.engine.requests] == [(5, 3)] * 2


async def test_the_end_of_a_prompt_is_kept(server: FakeServer) -> None:
    ids = encode("hello he")
    await post(server, prompt=["hello he", "he"], truncate_prompt_tokens=2, echo=True)
    await post(server, prompt=ids, truncate_prompt_tokens=3)
    prompts = [request.prompt_token_ids for request in server.engine.requests]
    assert prompts == [ids[-2:], encode("he"), ids[-3:]]


async def test_as_much_of_a_prompt_as_fits_is_kept(server: FakeServer) -> None:
    for max_tokens in (20, 1):
        await post(server, prompt=[5] * 300, truncate_prompt_tokens=-1, max_tokens=max_tokens)
    await post(server, ROUTES[1], messages=[{"role": "user", "content": "x" * 300}], truncate_prompt_tokens=-1)
    assert [len(request.prompt_token_ids) for request in server.engine.requests] == [180, 199, 199]


async def test_an_echo_is_what_the_model_saw(server: FakeServer) -> None:
    answer = (await post(server, prompt="hello he", truncate_prompt_tokens=1, echo=True, logprobs=0)).json()
    [choice] = answer["choices"]
    assert choice["text"].startswith("hehello")
    assert choice["logprobs"]["tokens"][:2] == ["he", "hello"]


async def test_token_ids_are_told(server: FakeServer) -> None:
    prompt, output = encode("hi"), [*encode("hello é hello"), EOS_ID]
    [choice] = (await post(server, return_token_ids=True)).json()["choices"]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == (prompt, output)
    answer = (await post(server, ROUTES[1], return_token_ids=True)).json()
    assert answer["prompt_token_ids"] == encode("<user>hi\n<assistant>")
    assert answer["choices"][0]["token_ids"] == output


async def test_token_ids_are_not_told_unasked(server: FakeServer) -> None:
    for path in ROUTES:
        for stream in (False, True):
            assert "token_ids" not in (await post(server, path, stream=stream)).text


@pytest.mark.parametrize("path", ROUTES)
async def test_streamed_token_ids_come_with_their_text(tmp_path: Path, path: str) -> None:
    server = FakeServer(tmp_path, say("hello hell"))
    chunks = events((await post(server, path, return_token_ids=True, stream=True, stop=" hellx")).text)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [i for choice in choices for i in choice.get("token_ids", [])] == [*encode("hello hell"), EOS_ID]
    first = chunks[0] if path == ROUTES[1] else chunks[0]["choices"][0]
    assert first["prompt_token_ids"] == server.engine.requests[0].prompt_token_ids
    assert not any("prompt_token_ids" in json for chunk in chunks[1:] for json in (chunk, chunk["choices"][0]))
    held = [choice["token_ids"] for choice in choices if choice.get("token_ids")]
    assert held[0] == encode("hello"), "what may become the stop string is held back"


async def test_tokens_of_a_stop_string_are_told_at_the_end_only(server: FakeServer) -> None:
    [choice] = (await post(server, return_token_ids=True, stop=" é")).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("hello", "stop")
    assert choice["token_ids"] == encode("hello é")
    chunks = events((await post(server, return_token_ids=True, stop=" é", stream=True)).text)
    told = [chunk["choices"][0].get("token_ids", []) for chunk in chunks]
    assert [i for ids in told for i in ids] == encode("hello é")


def outputs_by_seed(request: Request) -> list[TokenDelta]:
    """Choice i of a request with a seed says the i-th of these."""
    texts = ("he", "l", "hello")
    return deltas_of(request, encode(texts[request.sampling_params.seed or 0]))


async def test_the_best_choices_are_given(tmp_path: Path) -> None:
    server = FakeServer(tmp_path, outputs_by_seed)
    answer = (await post(server, best_of=3, n=2, seed=0, prompt=["hi", "he"])).json()
    # The stand-in engine's log-probability of a token is its id, negated.
    texts = sorted(("he", "l", "hello"), key=lambda text: VOCABULARY[text])
    assert [choice["text"] for choice in answer["choices"]] == texts[:2] * 2
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    assert answer["usage"]["completion_tokens"] == 2 * 3
    with_logprobs = (await post(server, best_of=2, n=1, seed=0, logprobs=1)).json()
    assert len(with_logprobs["choices"][0]["logprobs"]["tokens"]) == 1


@pytest.mark.parametrize(
    "fields", [{"best_of": 1, "n": 2}, {"best_of": 2, "stream": True}, {"best_of": 129}, {"best_of": 0}]
)
async def test_best_of_has_its_limits(server: FakeServer, fields: dict[str, Any]) -> None:
    assert (await refused(server, **fields))["param"] == "best_of"


async def test_best_of_n_is_n(server: FakeServer) -> None:
    answer = await post(server, best_of=2, n=2, stream=True)
    assert {chunk["choices"][0]["index"] for chunk in events(answer.text)} == {0, 1}


@pytest.mark.parametrize("form", FORMS)
async def test_a_gap_is_written_as_the_model_knows_it(tmp_path: Path, form: Any) -> None:
    tokenizer = tiny.byte_level()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in form[:3] if token])
    server = FakeServer(tmp_path)
    server.engine.info = msgspec.structs.replace(server.engine.info, vocab_size=tokenizer.get_vocab_size())
    server.state.models["tiny"].tokenizer = Tokenizer(tiny.save(tokenizer, tmp_path))
    first, between, last = ([tokenizer.token_to_id(token)] if token else [] for token in form[:3])
    for prompt in ("he", encode("he")):
        assert (await post(server, prompt=prompt, suffix="llo")).status_code == 200
    texts = ("llo", "he") if form.begins_with_suffix else ("he", "llo")
    expected = [*first, *encode(texts[0]), *between, *encode(texts[1]), *last]
    assert [request.prompt_token_ids for request in server.engine.requests] == [expected] * 2
    assert (await refused_more(server, suffix="llo", echo=True))["param"] == "suffix"


async def refused_more(server: FakeServer, **fields: Any) -> dict[str, Any]:
    server.engine.requests.clear()
    return await refused(server, **fields)


async def test_variables_of_the_template_arrive(tmp_path: Path) -> None:
    server = FakeServer(tmp_path)
    source = "{{ messages[0].content }}{% if thinks is defined and thinks %}!{{ style }}{% endif %}"
    template = ChatTemplate(TemplateSource(source))
    server.state.models["tiny"].chat_templates = ChatTemplates(template, template)
    await post(server, ROUTES[1], chat_template_kwargs={"thinks": True, "style": "x"})
    await post(server, ROUTES[1], chat_template_kwargs={"thinks": False})
    await post(server, ROUTES[1])
    texts = [server.tokenizer.decode(r.prompt_token_ids, skip_special_tokens=False) for r in server.engine.requests]
    assert texts == ["hi!x", "hi", "hi"]
    error = await refused_more(server, path=ROUTES[1], chat_template_kwargs={"thinking": True})
    assert "style, thinks" in error["message"]
