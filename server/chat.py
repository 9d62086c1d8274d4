"""From a request's messages to the prompt: which template, what it may be told, and where it runs."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jinja2

from checkpoints.chat_templates import DEFAULT, read_chat_templates
from checkpoints.errors import CheckpointError
from server.chat_template import SPECIAL_TOKENS, ChatTemplate, Conversation, TemplateSource
from server.confined.client import ConfinedProcess, LimitError
from server.confined.jobs import Done, Refused, Render
from server.errors import MAX_ECHO_CHARS, APIError, echo, invalid_request, printable
from server.tokenizer import Tokenizer

TOOL_USE = "tool_use"
"""The name of a template that some checkpoints keep for conversations with tools."""


class ChatTemplates(NamedTuple):
    """The templates of a checkpoint.

    Attributes:
        plain: for conversations without tools.
        with_tools: for those with tools; often the same.
    """

    plain: ChatTemplate
    with_tools: ChatTemplate

    def pick(self, *, has_tools: bool) -> ChatTemplate:
        """The one for a conversation."""
        return self.with_tools if has_tools else self.plain


def load_chat_templates(folder: Path, tokenizer: Tokenizer) -> ChatTemplates | None:
    """The checkpoint's templates (see `read_chat_templates`); None where it has none.

    Raises:
        CheckpointError: they cannot be read, or one is no template.
    """
    sources = read_chat_templates(folder, tokenizer.config)
    if not sources.get(DEFAULT):
        return None
    tokens = special_tokens(tokenizer)
    try:
        plain = ChatTemplate(TemplateSource(sources[DEFAULT], tokens))
        tool_use = sources.get(TOOL_USE)
        return ChatTemplates(plain, ChatTemplate(TemplateSource(tool_use, tokens)) if tool_use else plain)
    except jinja2.TemplateSyntaxError as error:
        what = f"the chat template of {folder} is no Jinja template"
        raise CheckpointError(what, given=f"{error.message} in line {error.lineno}") from None


def special_tokens(tokenizer: Tokenizer) -> tuple[tuple[str, str], ...]:
    """Those that the tokenizer has: one that it lacks is not defined, and templates may ask for just that."""
    found = ((name, tokenizer.special_token(name)) for name in SPECIAL_TOKENS)
    return tuple((name, token) for name, token in found if token)


async def render(process: ConfinedProcess, template: ChatTemplate, conversation: Conversation) -> str:
    """The prompt, made in a confined process.

    Raises:
        APIError: the template refuses the messages, is told what it does not know, or takes too long (400).
    """
    check_variables(template, conversation.variables)
    try:
        answer = await process.run(Render(template.source, conversation))
    except LimitError as error:
        raise _refusal(f"the model's chat template was stopped at these messages: {error}", "messages") from None
    match answer:
        case Refused(message, place):
            raise _refusal(message, place)
        case Done(text):
            return text
    raise RuntimeError(f"a confined process answered {type(answer).__name__} to a conversation")


def check_variables(template: ChatTemplate, variables: Iterable[str]) -> None:
    """What the template does not read would be ignored, and what it gets from us is not for clients to say.

    Raises:
        APIError: it reads no such variable (400).
    """
    for name in variables:
        if name not in template.variables:
            known = ", ".join(sorted(template.variables)) or "none"
            message = f"the model's chat template has no variable {echo(name)} for requests; it reads: {known}"
            param = name if name == "reasoning_effort" else "chat_template_kwargs"
            raise invalid_request(message, code="unknown_field", param=param)


def _refusal(message: str, param: str) -> APIError:
    return invalid_request(printable(message[: 2 * MAX_ECHO_CHARS]), code="invalid_messages", param=param)
