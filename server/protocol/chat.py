"""POST /v1/chat/completions: the request body."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from engine.request import MAX_LOGPROBS
from server.protocol.base import Unsupported, WireModel
from server.protocol.generation import GenerationBody


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
    content: str | list[TextPart]
    """What is said."""
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
    tool_calls: Unsupported = None
    """The same."""
    tool_call_id: Unsupported = None
    """The same."""

    def as_template_input(self) -> dict[str, Any]:
        """The message as chat templates expect it: text parts joined."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        message = {"role": self.role, "content": content}
        return message | ({"name": self.name} if self.name is not None else {})


class ChatBody(GenerationBody):
    """A conversation to go on with."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {
        **GenerationBody.unsupported,
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "reasoning_effort": (),
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
