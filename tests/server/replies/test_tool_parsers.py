"""Calls are found however the text is cut, and what is no call stays text."""

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.replies.reply import Reply, ReplyFormat
from server.replies.tools.hermes import HermesParser
from server.replies.tools.llama3 import Llama3Parser
from server.replies.tools.mistral import MistralParser
from server.replies.tools.parser import CallPart, Part, ToolParser
from server.replies.tools.registry import FORMATS, find_format

NAMES = ("get_weather", "add")


class Found(NamedTuple):
    """What a text came to."""

    text: str
    calls: list[tuple[str, str]]


def read(kind: type[ToolParser], pieces: list[str], *, is_certain: bool = False) -> Found:
    parser = kind(NAMES, is_certain=is_certain)
    parts: list[Part] = [part for piece in pieces for part in parser.feed(piece)] + parser.flush()
    text, calls = "", []
    for part in parts:
        if isinstance(part, CallPart):
            if part.name is not None:
                assert part.call_idx == len(calls)
                calls.append((part.name, ""))
            calls[part.call_idx] = (calls[part.call_idx][0], calls[part.call_idx][1] + part.arguments)
        else:
            text += part
    return Found(text, calls)


WEATHER = '{"city": "Köln [1] \\"{x}\\"", "days": [1, {"a": "}"}]}'
ADD = '{"a": 1, "b": -2.5e3}'
HERMES_CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {WEATHER}}}\n</tool_call>'
HERMES_ADD = f'<tool_call>{{"arguments": {ADD}, "name": "add"}}</tool_call>'
BOTH = [("get_weather", WEATHER), ("add", ADD)]

GOOD: dict[str, tuple[type[ToolParser], str, Found]] = {
    "one": (HermesParser, HERMES_CALL, Found("", BOTH[:1])),
    "two": (HermesParser, f"{HERMES_CALL}\n{HERMES_ADD}", Found("\n", BOTH)),
    "text around": (HermesParser, f"I look.\n{HERMES_CALL}\nDone <b>", Found("I look.\n\nDone <b>", BOTH[:1])),
    "no end marker": (HermesParser, HERMES_CALL.removesuffix("</tool_call>"), Found("", BOTH[:1])),
    "half an end marker": (HermesParser, HERMES_CALL[:-3], Found("", BOTH[:1])),
    "arguments in a string": (
        HermesParser,
        f'<tool_call>{{"name": "add", "arguments": {json.dumps(ADD)}}}</tool_call>',
        Found("", BOTH[1:]),
    ),
    "no arguments": (HermesParser, '<tool_call>{"name": "add"}</tool_call>', Found("", [("add", "{}")])),
    "after a wrong one": (
        HermesParser,
        f"<tool_call>oh <tool_call>{{}} {HERMES_ADD}",
        Found("<tool_call>oh <tool_call>{} ", BOTH[1:]),
    ),
    "array": (
        MistralParser,
        f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {WEATHER}}}, {{"name": "add", "arguments": {ADD}}}]',
        Found("", BOTH),
    ),
    "named": (MistralParser, f"Well[TOOL_CALLS]get_weather[ARGS]{WEATHER}[TOOL_CALLS]add{ADD}", Found("Well", BOTH)),
    "with ids": (MistralParser, f"[TOOL_CALLS]add[CALL_ID]a1B2c3D4e[ARGS]{ADD}", Found("", BOTH[1:])),
    "object": (Llama3Parser, f'{{"name": "add", "parameters": {ADD}}}', Found("", BOTH[1:])),
    "tagged": (
        Llama3Parser,
        f' <|python_tag|>{{"type": "function", "name": "add", "parameters": {ADD}}}',
        Found("", BOTH[1:]),
    ),
    "several": (
        Llama3Parser,
        f'{{"name": "get_weather", "parameters": {WEATHER}}}; {{"name": "add", "parameters": {ADD}}}',
        Found("", BOTH),
    ),
}

NO_CALLS: dict[str, tuple[type[ToolParser], str]] = {
    "plain": (HermesParser, "A < B and <b>bold</b> <tool_cal l>"),
    "unknown function": (HermesParser, '<tool_call>{"name": "rm", "arguments": {}}</tool_call>'),
    "no object": (HermesParser, "<tool_call>add(1, 2)</tool_call>"),
    "broken object": (HermesParser, '<tool_call>{"name": "add", "arguments": {"a": }}</tool_call>'),
    "Python": (HermesParser, "<tool_call>{'name': 'add', 'arguments': {}}</tool_call>"),
    "list of arguments": (HermesParser, '<tool_call>{"name": "add", "arguments": [1]}</tool_call>'),
    "cut off": (HermesParser, HERMES_CALL[:-25]),
    "other members": (HermesParser, '<tool_call>{"name": "add", "arguments": {}, "then": 1}</tool_call>'),
    "only a marker": (HermesParser, "text <tool_call>"),
    "marker and blanks": (HermesParser, "<tool_call> \n "),
    "no array": (MistralParser, "[TOOL_CALLS] nothing"),
    "empty array": (MistralParser, "[TOOL_CALLS][]"),
    "unknown name": (MistralParser, "[TOOL_CALLS]rm[ARGS]{}"),
    "half a marker": (MistralParser, "see [TOOL_CALL"),
    "JSON answer": (Llama3Parser, '{"city": "Rome", "name": "add"}'),
    "later object": (Llama3Parser, f'Call {{"name": "add", "parameters": {ADD}}}'),
    "half an object": (Llama3Parser, '{"name": "add", "parameters": {"a": 1'),
    "tag": (Llama3Parser, "<|python_tag|>print(1)"),
    "deep": (HermesParser, '<tool_call>{"name": "add", "arguments": ' + '{"a":' * 2000 + "1" + "}" * 2000 + "}"),
}


@pytest.mark.parametrize("name", GOOD)
def test_calls_are_found_however_the_text_is_cut(name: str) -> None:
    kind, text, found = GOOD[name]
    assert read(kind, [text]) == found
    assert read(kind, list(text)) == found
    for place in range(len(text) + 1):
        assert read(kind, [text[:place], text[place:]]) == found


@pytest.mark.parametrize("name", NO_CALLS)
def test_what_is_no_call_stays_text(name: str) -> None:
    kind, text = NO_CALLS[name]
    assert read(kind, [text]) == Found(text, [])
    for place in range(0, len(text) + 1, max(1, len(text) // 200)):
        assert read(kind, [text[:place], text[place:]]) == Found(text, [])


@pytest.mark.parametrize("name", GOOD)
def test_no_part_of_a_call_comes_as_text_before_it_is_known(name: str) -> None:
    kind, text, found = GOOD[name]
    parser, seen = kind(NAMES, is_certain=False), ""
    for char in text:
        seen += "".join(part for part in parser.feed(char) if isinstance(part, str))
        assert found.text.startswith(seen)


@pytest.mark.parametrize("kind", FORMATS)
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_text_comes_out_the_same_in_any_pieces(kind: type[ToolParser], data: st.DataObject) -> None:
    bits = [
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "<|python_tag|>",
        '{"name": "add", ',
        '"arguments": {}}',
    ]
    bits += ["{", "}", "[", "]", ",", ";", '"', "\\", "add", " ", "\n", "x", '"parameters": {"a": [1]}}']
    text = "".join(data.draw(st.lists(st.sampled_from(bits), max_size=12)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read(kind, [text])
    assert read(kind, pieces) == whole
    assert read(kind, list(text)) == whole
    assert all(isinstance(json.loads(arguments), dict) and name in NAMES for name, arguments in whole.calls)
    if not whole.calls:
        assert whole.text == text


CERTAIN = {
    HermesParser: '<tool_call>\n{"name": "add", "arguments": {"a": "xy"}}\n</tool_call>',
    MistralParser: '[TOOL_CALLS][{"name": "add", "arguments": {"a": "xy"}}]',
    Llama3Parser: '{"name": "add", "parameters": {"a": "xy"}}',
}


@pytest.mark.parametrize("kind", FORMATS)
def test_certain_calls_come_as_they_are_written(kind: type[ToolParser]) -> None:
    parser = kind(NAMES, is_certain=True)
    steps = [[part for part in parser.feed(char) if isinstance(part, CallPart)] for char in CERTAIN[kind]]
    parts = [part for step in steps for part in step]
    assert (parts[0].name, {part.name for part in parts[1:]}) == ("add", {None})
    assert "".join(part.arguments for part in parts) == '{"a": "xy"}'
    assert len(parts) > 8, "a character each"
    assert parser.flush() == []


@pytest.mark.parametrize("kind", FORMATS)
def test_a_certain_call_that_is_cut_off_keeps_what_came(kind: type[ToolParser]) -> None:
    text = CERTAIN[kind]
    cut = text[: text.index("y")]
    assert read(kind, [cut], is_certain=True) == Found("", [("add", '{"a": "x')])


def test_templates_say_the_format() -> None:
    assert find_format("{{ '<tool_call>\n' }}") is HermesParser
    assert find_format("<tool_call>\n<function=name>") is None, "XML in the same markers"
    assert find_format("{{ '[TOOL_CALLS]' }}") is MistralParser
    assert find_format('in the format {"name": function name, "parameters": dictionary') is Llama3Parser
    assert find_format("{{ messages }}") is None


def reply(text: str, **options: Any) -> tuple[str, list[CallPart]]:
    made = Reply(ReplyFormat(tools=lambda: HermesParser(NAMES, is_certain=False), **options))
    part = made.feed(text, is_last=True)
    return part.content, part.calls


def test_blanks_around_calls_belong_to_neither() -> None:
    content, calls = reply(f"I look.\n\n{HERMES_CALL}\n{HERMES_ADD}\n")
    assert content == "I look."
    assert [call.name for call in calls] == ["get_weather", "add"]
    assert reply("plain \n") == ("plain \n", [])


def test_calls_beyond_the_first_are_dropped_where_one_is_allowed() -> None:
    _, calls = reply(f"{HERMES_CALL}{HERMES_ADD}", max_calls=1)
    assert [call.name for call in calls] == ["get_weather"]
