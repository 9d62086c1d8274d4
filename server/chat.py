"""Chat templates: messages to the text that the model was trained on."""

import datetime
import json
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from server.errors import invalid_request
from server.tokenizer import Tokenizer

Message = dict[str, Any]

CONTINUE_MARK = "\ufdd0 continue here \ufdd0"
"""Holds characters that Unicode keeps out of texts."""


class ChatTemplate:
    """A compiled template, run in a sandbox that can change nothing.

    Args:
        source: Jinja text.
        tokenizer: for the special tokens that templates name.

    Raises:
        jinja2.TemplateSyntaxError: the text is no template.
    """

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self._template = _environment().from_string(source)
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        self._special_tokens = {name: tokenizer.special_token(name) for name in names}

    def render(
        self, messages: list[Message], *, add_generation_prompt: bool = True, continue_final_message: bool = False
    ) -> str:
        """The prompt.

        Args:
            messages: each with `role` and `content`.
            add_generation_prompt: end with the opening of the assistant's turn.
            continue_final_message: end within the last message, so that the model goes on with it.

        Raises:
            APIError: the template refuses these messages (400).
        """
        if not continue_final_message:
            return self._render(messages, add_generation_prompt=add_generation_prompt)
        # A mark behind the last content shows where the template goes on after it; the blank guards it from trimming.
        marked = [*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']} {CONTINUE_MARK}"}]
        before, mark, _ = self._render(marked, add_generation_prompt=False).rpartition(f" {CONTINUE_MARK}")
        if not mark:
            message = "continue_final_message: the chat template does not show the last message as it is"
            raise invalid_request(message, code="invalid_messages", param="continue_final_message")
        return before

    def _render(self, messages: list[Message], *, add_generation_prompt: bool) -> str:
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._special_tokens
            )
        except Exception as error:  # a template is a program: it can fail in every way
            message = f"the model's chat template refuses these messages: {error}"
            raise invalid_request(message, code="invalid_messages", param="messages") from None


def load_chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The checkpoint's template: of chat_template.jinja, else of tokenizer_config.json; None where it has none."""
    path = folder / "chat_template.jinja"
    source = path.read_text() if path.exists() else tokenizer.config.get("chat_template")
    if isinstance(source, list):  # several named templates
        source = next((entry["template"] for entry in source if entry.get("name") == "default"), None)
    return ChatTemplate(source, tokenizer) if source else None


class GenerationBlock(Extension):
    """The block `{% generation %}`, which marks the assistant's words for training: here its content, unchanged."""

    tags: set[str] = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> list[Node]:
        """The nodes up to `{% endgeneration %}`."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().astimezone().strftime(form)
    return environment


def _to_json(value: Any, *, ensure_ascii: bool = False, **options: Any) -> str:
    # Jinja's own filter escapes for HTML, which is not what models were trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
