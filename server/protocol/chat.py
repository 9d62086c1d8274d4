"""POST /v1/chat/completions: the request body."""

from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from engine.request import MAX_LOGPROBS
from server.protocol.base import Unsupported, WireModel
from server.protocol.generation import GenerationBody
from server.protocol.tools import ToolCall, ToolChoice, Tools

_ROLE_OF = {"tool_calls": "assistant", "reasoning_content": "assistant", "tool_call_id": "tool"}


class TextPart(WireModel):
    """A piece of a message's text."""

    type: Literal["text"]
    """Text is all that the served models read."""
    text: str
    """The piece."""


class ChatMessage(WireModel):
    """One turn of the conversation."""

    type: Literal["text", "message"] | None = None
    """Accepted for compatibility; no effect."""
    role: Literal["system", "developer", "user", "assistant", "tool"]
    """Who speaks."""
    tool_calls: list[ToolCall] | None = None
    """Of the assistant: the functions that it called."""
    content: str | list[TextPart] | None = Field(default=None, validate_default=True)
    """What is said; only a message with `tool_calls` may do without."""
    name: str | None = None
    """Who exactly, where the chat template has a use for it."""
    refusal: Unsupported = None
    """Null in messages that clients send back."""
    annotations: Unsupported = None
    """The same."""
    audio: Unsupported = None
    """The same."""
    function_call: Unsupported = None
    """The same."""
    tool_call_id: str | None = None
    """Of a tool: which call it answers."""
    reasoning_content: str | None = None
    """Of the assistant: what it thought, where the chat template has a use for it."""
    parsed: Any = None
    """In messages that clients send back as they parsed them; no effect."""

    @field_validator("tool_calls", "reasoning_content", "tool_call_id")
    @classmethod
    def _belongs_to_its_role(cls, value: Any, info: ValidationInfo) -> Any:
        wanted, given = _ROLE_OF[info.field_name or ""], info.data.get("role")
        if value is not None and given != wanted:
            fields = {"name": info.field_name, "wanted": wanted, "given": given}
            raise PydanticCustomError("invalid_value", "{name} belongs to the role {wanted}, not to {given}", fields)
        return value

    @field_validator("content")
    @classmethod
    def _says_something(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and not info.data.get("tool_calls"):
            raise PydanticCustomError("missing_field", "content is required in a message without tool_calls")
        return value

    def as_template_input(self) -> dict[str, Any]:
        """The message as chat templates expect it: text parts joined."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        message: dict[str, Any] = {"role": self.role, "content": text}
        for name in ("name", "tool_call_id", "reasoning_content"):
            if (value := getattr(self, name)) is not None:
                message[name] = value
        if self.tool_calls:
            message["tool_calls"] = [call.as_template_input() for call in self.tool_calls]
        return message


class ChatBody(GenerationBody):
    """A conversation to go on with."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {
        **GenerationBody.unsupported,
        "modalities": (["text"],),
    }

    messages: list[ChatMessage] = Field(min_length=1)
    """The conversation so far."""
    max_completion_tokens: int | None = Field(default=None, ge=0)
    """The newer name of `max_tokens`."""
    logprobs: bool = False
    """Log-probabilities of the output tokens."""
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    """With `logprobs`: this many most probable tokens at each place."""
    add_generation_prompt: bool = True
    """End the prompt with the opening of the assistant's turn."""
    continue_final_message: bool = False
    """Go on with the last message in place of answering it; needs `add_generation_prompt: false`."""
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default={})
    """Values for variables of the model's chat template, such as `enable_thinking`; only those that it reads."""
    add_special_tokens: bool = False
    """Let the tokenizer add what it adds to a text; chat templates write it out themselves."""
    tools: Tools = Field(default=[])
    """Functions that the model may call."""
    tool_choice: ToolChoice = "auto"
    """Whether it must call none, one or more, or this one. `auto`: it decides."""
    parallel_tool_calls: bool = True
    """It may call several in one answer."""
    reasoning_effort: str | None = None
    """How long to think, where the chat template has a use for it."""

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the chat template is told beside the messages."""
        effort = {"reasoning_effort": self.reasoning_effort} if self.reasoning_effort is not None else {}
        return {**self.chat_template_kwargs, **effort}
