"""docs/api.md, made of /openapi.json: `python -m server.openapi_page` writes it, and a test fails where it is stale."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.http import HTTPSettings
from server.app import create_app
from server.openapi_examples import EXAMPLES, Example

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
PREFIX = "#/components/schemas/"
HEAD = """# The API

Made by `python -m server.openapi_page` from the routes and their models; `/openapi.json` says the same to programs. Where a
server has an API key, send it as `Authorization: Bearer KEY` (curl: `-H`, openai: `api_key`).

Nothing is ignored: a field that is unknown, out of range or not supported is an error that names it. Null says the same as
leaving a field out. Every error, whatever its status, is `{"error": {"message", "type", "param", "code"}}`; in a stream that
has begun it is one event before `[DONE]`. 429 and 503 come with `Retry-After`.

With `stream: true` the answer is server-sent events: chunks that each add to what came before, then one with the
`finish_reason` of each choice, the usage where `stream_options` asks for it, and `data: [DONE]`.
"""

Schema = dict[str, Any]


def render_page() -> str:
    """The whole document."""
    description = create_app(HTTPSettings(), {}).openapi()
    components = description["components"]["schemas"]
    parts = [HEAD]
    for path, operations in description["paths"].items():
        parts += [_operation(f"{method.upper()} {path}", operation) for method, operation in operations.items()]
    parts.append("## Shapes\n")
    parts += [_shape(name, components[name]) for name in sorted(components)]
    return "\n".join(parts)


def _operation(name: str, operation: Schema) -> str:
    lines = [f"## {name}\n", f"{operation['description']}\n"]
    if "requestBody" in operation:
        [content] = operation["requestBody"]["content"].values()
        lines.append(f"Body: {_kind(content['schema'])}\n")
    lines += _table(_parameters(operation))
    kinds = dict.fromkeys(_answers(operation))
    lines.append(f"Answer: {', or '.join(kinds)}\n")
    return "\n".join([*lines, *_example(EXAMPLES[name])])


def _parameters(operation: Schema) -> list[tuple[str, Schema, bool]]:
    found = operation.get("parameters", [])
    return [(p["name"], {"description": p.get("description", ""), **p["schema"]}, p["required"]) for p in found]


def _success(operation: dict[str, Any]) -> dict[str, Any]:
    """What is said of the answer when all goes well, whichever code that has."""
    found: dict[str, Any] = next(value for code, value in operation["responses"].items() if code.startswith("2"))
    return found


def _answers(operation: Schema) -> Iterator[str]:
    for kind, content in _success(operation).get("content", {}).items():
        if kind == "text/event-stream":
            yield f"events; the `data` of each: {content['itemSchema']['properties']['data']['description']}"
        else:
            yield _kind(content.get("schema", {})) or kind


def _example(example: Example) -> list[str]:
    return ["```sh", example.as_curl, "```\n", "```python", example.as_python, "```\n"]


def _shape(name: str, schema: Schema) -> str:
    required = schema.get("required", [])
    fields = [(field, about, field in required) for field, about in schema.get("properties", {}).items()]
    lines = [f"### {name}\n", f"{schema['description']}\n"] if "description" in schema else [f"### {name}\n"]
    return "\n".join([*lines, *(_table(fields) or [f"{_kind(schema)}\n"])])


def _table(fields: list[tuple[str, Schema, bool]]) -> list[str]:
    """One row a field: name, type, default, meaning."""
    if not fields:
        return []
    rows = [
        f"| `{name}` | {_kind(about)} | {_default(about, is_required)} | {_meaning(about)} |"
        for name, about, is_required in fields
    ]
    return ["| field | type | default | meaning |", "|---|---|---|---|", *rows, ""]


def _default(schema: Schema, is_required: bool) -> str:
    if is_required:
        return "required"
    value = schema.get("default")
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value!r}`"


def _meaning(schema: Schema) -> str:
    return str(schema.get("description", "")).replace("\n", " ").replace("|", "\\|")


def _kind(schema: Schema) -> str:
    """A type in words, with its limits."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(PREFIX)
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        kinds = [_kind(option) for option in schema["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds)) or "null"
    if "enum" in schema or "const" in schema:
        return (
            ", ".join(f"`{value!r}`" for value in schema.get("enum", [schema.get("const")]) if value is not None)
            or "null"
        )
    if "prefixItems" in schema:
        return f"array: {', '.join(map(_kind, schema['prefixItems']))}"
    if schema.get("type") == "array":
        return f"array of {_kind(schema.get('items', {})) or 'anything'}{_limits(schema)}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    return f"{schema.get('type', '')}{_limits(schema)}"


LIMITS = {
    "minimum": ">= {}",
    "exclusiveMinimum": "> {}",
    "maximum": "<= {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
}


def _limits(schema: Schema) -> str:
    said = [text.format(schema[name]) for name, text in LIMITS.items() if name in schema]
    return f" ({', '.join(said)})" if said else ""


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
