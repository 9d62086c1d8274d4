"""Whether a grammar can be used, and where it is wrong if not."""

from collections.abc import Iterator
from typing import Any

import llguidance
import msgspec

from engine.grammar import GrammarError, compile_grammar, why_stuck
from server.confined.jobs import Answer, Done, Refused

DEFINITIONS = ("$defs", "definitions")
MAX_TRIES = 200


def check_grammar(tokenizer: llguidance.LLTokenizer, grammar: str) -> Answer:
    """Compile a grammar and take a first step, where some only show how large they are."""
    try:
        matcher = compile_grammar(tokenizer, grammar)
    except GrammarError as error:
        return Refused(str(error), _place_in_schema(tokenizer, grammar))
    fitting = int.from_bytes(matcher.compute_bitmask(), "little")
    if fitting:
        matcher.consume_token(_lowest_bit(fitting))
    return Refused(why_stuck(matcher)) if matcher.is_error() else Done()


def _lowest_bit(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _place_in_schema(tokenizer: llguidance.LLTokenizer, grammar: str) -> str:
    """The first part that is a wrong JSON schema, and where in it: `answer.properties.age`; empty where there is none."""
    parts = msgspec.json.decode(grammar)["grammars"]
    for part in parts:
        schema = part.get("json_schema")
        if isinstance(schema, dict) and _is_wrong(tokenizer, schema):
            return str(part.get("name", "")) + _narrow(tokenizer, schema)
    return ""


def _narrow(tokenizer: llguidance.LLTokenizer, schema: dict[str, Any]) -> str:
    """The way to the smallest part that is wrong: what is wrong in a part is wrong in the whole."""
    shared = {name: schema[name] for name in DEFINITIONS if name in schema}
    place, num_tries, part = "", 0, schema
    while num_tries < MAX_TRIES:
        for step, child in _children(part):
            num_tries += 1
            if _is_wrong(tokenizer, shared | child):
                place, part = place + step, child
                break
        else:
            return place
    return place


def _children(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas right inside of one, with the way to each."""
    for key, value in schema.items():
        if key in ("properties", "patternProperties", *DEFINITIONS) and isinstance(value, dict):
            yield from ((f".{key}.{name}", child) for name, child in value.items() if isinstance(child, dict))
        elif key in ("items", "additionalProperties", "not", "if", "then", "else") and isinstance(value, dict):
            yield f".{key}", value
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
            yield from ((f".{key}[{i}]", child) for i, child in enumerate(value) if isinstance(child, dict))


def _is_wrong(tokenizer: llguidance.LLTokenizer, schema: dict[str, Any]) -> bool:
    grammar = msgspec.json.encode({"grammars": [{"json_schema": schema}]}).decode()
    return bool(llguidance.LLMatcher.validate_grammar(grammar, tokenizer))
