"""Chat templates: messages to the text that the model was trained on."""

import datetime
import json
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from server.errors import invalid_request
from server.tokenizer import Tokenizer

Message = dict[str, Any]


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
        try:
            text = self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._special_tokens
            )
        except (jinja2.TemplateError, TypeError, ValueError, RecursionError) as error:
            message = f"the model's chat template refuses these messages: {error}"
            raise invalid_request(message, code="invalid_messages", param="messages") from None
        return _cut_after(text, messages[-1]["content"]) if continue_final_message else text


def load_chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The checkpoint's template: of chat_template.jinja, else of tokenizer_config.json; None where it has none."""
    path = folder / "chat_template.jinja"
    source = path.read_text() if path.exists() else tokenizer.config.get("chat_template")
    if isinstance(source, list):  # several named templates
        source = next((entry["template"] for entry in source if entry.get("name") == "default"), None)
    return ChatTemplate(source, tokenizer) if source else None


def _cut_after(text: str, content: str) -> str:
    """`text` up to the end of its last occurrence of `content` (templates trim what they insert)."""
    content = content.strip()
    place = text.rfind(content)
    if place < 0:
        message = "continue_final_message: the chat template does not show the last message as it is"
        raise invalid_request(message, code="invalid_messages", param="continue_final_message")
    return text[: place + len(content)]


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().astimezone().strftime(form)
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML, which is not what models were trained on.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
