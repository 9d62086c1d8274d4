"""What a request wants its output to look like becomes a grammar (see engine/grammar.py). Nothing is compiled here."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from server.errors import invalid_request
from server.protocol.generation import GenerationBody
from server.protocol.structured import JSONSchemaFormat, ResponseFormat, StructuredOutputs, TextFormat
from server.protocol.tools import Tool
from server.replies.reasoning import BEGIN, END
from server.replies.tools.parser import Spell, ToolParser

BLANKS = r"(\n {0,16}| )?"
"""What may stand between the parts of JSON: nothing, one blank, or a new line and its indent. Without an end to them a model
that has nothing to say goes on with blanks for ever."""
MAX_DEPTH = 64
ANY_OBJECT = {"type": "object"}
NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}

Part = dict[str, Any]
"""One of a list of grammars, without its name."""


class Wanted(NamedTuple):
    """What an output must match.

    Attributes:
        part: the grammar.
        param: the request's field that it comes from.
    """

    part: Part
    param: str


def wanted_output(body: GenerationBody) -> Wanted | None:
    """What the fields of structured output ask for; None: any text.

    Raises:
        APIError: there are two of them, or a schema is none (400).
    """
    form, outputs = body.response_format, body.structured_outputs
    if isinstance(form, TextFormat):
        form = None
    if form is not None and outputs is not None:
        message = "structured_outputs and response_format both say what the output must match; give one"
        raise invalid_request(message, code="invalid_value", param="structured_outputs")
    if outputs is not None:
        return _of_structured_outputs(outputs)
    return None if form is None else _of_response_format(form)


def schema_part(schema: Any, param: str) -> Part:
    """A JSON schema as a grammar.

    Raises:
        APIError: it is no object, or too deep (400).
    """
    if not isinstance(schema, dict):
        raise invalid_request(f"{param} must be a JSON schema, which is an object", code="invalid_grammar", param=param)
    if _is_deeper(schema, MAX_DEPTH):
        message = f"{param} may be {MAX_DEPTH} levels deep at most: move inner schemas to $defs"
        raise invalid_request(message, code="invalid_grammar", param=param)
    return {"json_schema": {**schema, "x-guidance": {"whitespace_pattern": BLANKS}}}


def call_parts(
    parser: type[ToolParser], tools: Sequence[Tool], params: Sequence[str], template: str, spell: Spell
) -> tuple[str, dict[str, Part]]:
    """Calls of tools, in the words of a model.

    Args:
        parser: of the model's format.
        tools: those that may be called.
        params: the request's field that holds each one's parameters.
        template: the model's chat template.
        spell: says a marker in Lark.

    Returns:
        The rules of `ToolParser.rules`, and the grammars that they refer to by name.

    Raises:
        APIError: a tool's parameters are no schema (400).
    """
    rules = parser.rules([tool.function.name for tool in tools], spell, template)
    parts = {
        f"arguments_{i}": schema_part(_arguments_schema(tool, param), param)
        for i, (tool, param) in enumerate(zip(tools, params, strict=True))
    }
    return rules, parts


def reasoning_rule(spell: Spell, *, has_begun: bool) -> str:
    """Lark with the rule `thoughts`: what a model thinks before it answers; it may think nothing."""
    end = spell(END)
    # Lazy: the first end marker ends the thoughts. A special token is no text, so it needs no care.
    thinking = f"thinking: /(.|\\n)*/ {end}\n" if end.startswith("<") else f"thinking[lazy]: /(.|\\n)*/ {end}\n"
    whole = "thinking" if has_begun else f"({spell(BEGIN)} thinking)?"
    return f"thoughts: {whole} /\\n{{0,2}}/\n{thinking}"


def joined(start: str, rules: str, parts: dict[str, Part]) -> str:
    """A grammar of several parts.

    Args:
        start: the first rule's right side.
        rules: more Lark.
        parts: what it refers to, by name.
    """
    first = {"name": "reply", "lark_grammar": f"start: {start}\n{rules}"}
    return grammar_text([first, *({"name": name, **part} for name, part in parts.items())])


def grammar_text(parts: list[Part]) -> str:
    """The grammar whose first part refers to the others."""
    return msgspec.json.encode({"grammars": parts}).decode()


def literal(text: str) -> str:
    """A text in Lark."""
    return json.dumps(text, ensure_ascii=False)


def speller(special_token_id: Callable[[str], int | None]) -> Spell:
    """Says a marker in Lark: as a special token where the vocabulary has it as one.

    Args:
        special_token_id: finds it.
    """

    def spell(marker: str) -> str:
        token_id = special_token_id(marker)
        return literal(marker) if token_id is None else f"<[{token_id}]>"

    return spell


def _arguments_schema(tool: Tool, param: str) -> dict[str, Any]:
    schema = tool.function.parameters
    if schema is None:
        return NO_ARGUMENTS
    if schema.get("type", "object") != "object":
        message = f"{param} must describe an object, with a member for each argument"
        raise invalid_request(message, code="invalid_grammar", param=param)
    return ANY_OBJECT | schema


def _of_response_format(form: ResponseFormat) -> Wanted:
    if isinstance(form, JSONSchemaFormat):
        param = "response_format.json_schema.schema"
        return Wanted(schema_part(form.json_schema.json_schema, param), param)
    return Wanted(schema_part(ANY_OBJECT, "response_format"), "response_format")


def _of_structured_outputs(outputs: StructuredOutputs) -> Wanted:
    if outputs.regex is not None:
        return Wanted({"lark_grammar": f"start: {_pattern(outputs.regex)}"}, "structured_outputs.regex")
    if outputs.choice is not None:
        texts = " | ".join(map(literal, outputs.choice))
        return Wanted({"lark_grammar": f"start: {texts}"}, "structured_outputs.choice")
    if outputs.grammar is not None:
        return Wanted({"lark_grammar": outputs.grammar}, "structured_outputs.grammar")
    param = "structured_outputs.json"
    return Wanted(schema_part(_schema(outputs.json_, param), param), param)


def _schema(schema: dict[str, Any] | str | None, param: str) -> Any:
    if not isinstance(schema, str):
        return schema
    try:
        return msgspec.json.decode(schema)
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid_request(f"{param} is no JSON: {error}", code="invalid_grammar", param=param) from None


def _pattern(regex: str) -> str:
    """A regular expression between the slashes of Lark."""
    import llguidance  # noqa: PLC0415 - most requests need none of it

    return f"/{llguidance.regex_to_lark(regex)}/"


def _is_deeper(value: object, limit: int) -> bool:
    """Whether JSON goes deeper than so many levels."""
    level = [value]
    for _ in range(limit):
        children = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
        ]
        if not children:
            return False
        level = children
    return True
