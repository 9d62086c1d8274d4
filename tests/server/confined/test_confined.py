"""What loops or grows is stopped by the kernel, and the next job finds a fresh process."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine.token_bytes import TokenBytes
from server.chat import render
from server.chat_template import ChatTemplate, Conversation, TemplateSource
from server.confined.client import ConfinedProcess, LimitError
from server.confined.jobs import Compile, Done, Refused, Render, Teach, UnknownVocabulary
from server.errors import APIError

pytestmark = pytest.mark.anyio

CONVERSATION = Conversation(messages=[{"role": "user", "content": "x"}])
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GROWING = (
    "{% set ns = namespace(x='x' * 1000) %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}"
)
LONG = "{% for i in range(1200) %}{{ '0123456789' * 1000 }}{% endfor %}"


@pytest.fixture
async def process() -> AsyncIterator[ConfinedProcess]:
    made = ConfinedProcess(limit_s=0.4)
    yield made
    await made.close()


def job(source: str) -> Render:
    return Render(TemplateSource(source), CONVERSATION)


async def test_a_template_that_loops_is_stopped_and_the_next_one_runs(process: ConfinedProcess) -> None:
    assert await process.run(job("{{ messages[0].content }}")) == Done("x")
    with pytest.raises(LimitError, match=r"longer than 0.4 s"):
        await process.run(job(ENDLESS))
    assert await process.run(job("{{ messages[0].content }}!")) == Done("x!")


@pytest.mark.parametrize("source", [GROWING, LONG, "{{ 'x' * 10000000000 }}"])
async def test_a_template_that_grows_is_stopped(process: ConfinedProcess, source: str) -> None:
    with pytest.raises(APIError, match=r"memory|longer than"):
        await render(process, ChatTemplate(TemplateSource(source)), CONVERSATION)
    assert await process.run(job("ok")) == Done("ok")


async def test_clients_learn_of_it_as_a_bad_request(process: ConfinedProcess) -> None:
    for source, message in ((ENDLESS, "was stopped"), ("{{ ''.__class__ }}", "unsafe")):
        with pytest.raises(APIError, match=message) as caught:
            await render(process, ChatTemplate(TemplateSource(source)), CONVERSATION)
        assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_messages", "messages")


async def test_others_wait_for_their_turn_and_a_client_that_leaves_spoils_nothing(process: ConfinedProcess) -> None:
    first = asyncio.create_task(process.run(job(ENDLESS)))
    left = asyncio.create_task(process.run(job("left")))
    last = asyncio.create_task(process.run(job("last")))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(LimitError):
        await first
    assert await last == Done("last")


TEXTS = TokenBytes([bytes([byte]) for byte in range(256)] + [b"<eos>"], [256])


async def test_grammars_are_compiled_for_a_vocabulary(process: ConfinedProcess) -> None:
    good = Compile("tiny", '{"grammars": [{"lark_grammar": "start: /[a-z]+/"}]}')
    assert await process.run(good) == UnknownVocabulary()
    await process.run(Teach("tiny", TEXTS, 257, [256]))
    assert await process.run(good) == Done()
    answer = await process.run(Compile("tiny", '{"grammars": [{"lark_grammar": "start: nothing"}]}'))
    assert isinstance(answer, Refused)
    assert 'unknown name: "nothing"' in answer.message


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ('{"type": "objekt"}', "answer"),
        ('{"properties": {"a": {"items": {"type": "string", "pattern": "("}}, "b": {}}}', "answer.properties.a.items"),
        ('{"anyOf": [{"type": "string"}, {"not": {}}]}', "answer.anyOf[1]"),
        ('{"$defs": {"x": {"uniqueItems": true}}, "$ref": "#/$defs/x"}', "answer.$defs.x"),
    ],
)
async def test_a_wrong_schema_is_found_where_it_is_wrong(process: ConfinedProcess, schema: str, place: str) -> None:
    await process.run(Teach("tiny", TEXTS, 257, [256]))
    answer = await process.run(Compile("tiny", f'{{"grammars": [{{"name": "answer", "json_schema": {schema}}}]}}'))
    assert isinstance(answer, Refused)
    assert answer.place == place


async def test_a_grammar_that_grows_is_refused(process: ConfinedProcess) -> None:
    await process.run(Teach("tiny", TEXTS, 257, [256]))
    grammar = '{"grammars": [{"lark_grammar": "start: /(a{1000}){1000}/"}]}'
    try:
        assert isinstance(await process.run(Compile("tiny", grammar)), Refused)
    except LimitError as error:  # on a slow machine its time is over first
        assert "longer than" in str(error)
