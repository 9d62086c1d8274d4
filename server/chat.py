"""Chat templates: messages to the text that the model was trained on."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from checkpoints.chat_templates import DEFAULT, read_chat_templates
from checkpoints.errors import CheckpointError
from server.errors import MAX_ECHO_CHARS, echo, invalid_request, printable
from server.tokenizer import Tokenizer

Message = dict[str, Any]

CONTINUE_MARK = "\ufdd0continue here\ufdd0"
"""Holds characters that Unicode keeps out of texts."""
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
OWN_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt", *SPECIAL_TOKENS})


class ChatTemplate:
    """A compiled template, run in a sandbox that can change nothing.

    Args:
        source: Jinja text.
        tokenizer: for the special tokens that templates name.

    Raises:
        jinja2.TemplateSyntaxError: the text is no template.
    """

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        environment = _environment()
        self._template = environment.from_string(source)
        self._variables = (
            find_undeclared_variables(environment.parse(source)) - OWN_VARIABLES - set(environment.globals)
        )
        found = {name: tokenizer.special_token(name) for name in SPECIAL_TOKENS}
        # One that the tokenizer lacks is not defined, and templates may ask for just that.
        self._special_tokens = {name: token for name, token in found.items() if token}

    def render(
        self,
        messages: list[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, object] = MappingProxyType({}),
    ) -> str:
        """The prompt.

        Args:
            messages: each with `role` and `content`.
            add_generation_prompt: end with the opening of the assistant's turn.
            continue_final_message: end within the last message, so that the model goes on with it.
            variables: more values for the template, which reads them all.

        Raises:
            APIError: the template refuses these messages, or reads no such variable (400).
        """
        self._check_variables(variables)
        if not continue_final_message:
            return self._render(messages, variables, add_generation_prompt=add_generation_prompt)
        # A mark behind the last content shows where the template goes on after it.
        marked = [*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']}{CONTINUE_MARK} "}]
        before, mark, after = self._render(marked, variables, add_generation_prompt=False).rpartition(CONTINUE_MARK)
        if not mark:
            message = "continue_final_message: the chat template does not show the last message as it is"
            raise invalid_request(message, code="invalid_messages", param="continue_final_message")
        # A template that takes the blank from behind the mark would have taken those at the end of the content.
        return before if after.startswith(" ") else before.rstrip()

    def _check_variables(self, variables: Mapping[str, object]) -> None:
        """What the template does not read would be ignored, and what it gets from us is not for clients to say."""
        for name in variables:
            if name not in self._variables:
                known = ", ".join(sorted(self._variables)) or "none"
                message = f"the model's chat template has no variable {echo(name)} for requests; it reads: {known}"
                raise invalid_request(message, code="unknown_field", param="chat_template_kwargs")

    def _render(self, messages: list[Message], variables: Mapping[str, object], *, add_generation_prompt: bool) -> str:
        try:
            return self._template.render(
                **variables,
                messages=messages,
                tools=None,  # defined: templates ask whether they are none
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except Exception as error:  # a template is a program: it can fail in every way
            reason = printable(str(error)[:MAX_ECHO_CHARS])
            message = f"the model's chat template refuses these messages: {reason}"
            raise invalid_request(message, code="invalid_messages", param="messages") from None


def load_chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The checkpoint's default template (see `read_chat_templates`); None where it has none.

    Raises:
        CheckpointError: it cannot be read, or is no template.
    """
    source = read_chat_templates(folder, tokenizer.config).get(DEFAULT)
    try:
        return ChatTemplate(source, tokenizer) if source else None
    except jinja2.TemplateSyntaxError as error:
        what = f"the chat template of {folder} is no Jinja template"
        raise CheckpointError(what, given=f"{error.message} in line {error.lineno}") from None


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


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # templates give these by place too
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML, which is not what models were trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
