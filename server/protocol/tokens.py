"""POST /tokenize and /detokenize: bodies and answers."""

from typing import Self

import msgspec
from pydantic import Field, model_validator

from server.protocol.base import RequestBody
from server.protocol.chat import ChatMessage


class TokenizeBody(RequestBody):
    """A text or a conversation."""

    prompt: str | None = None
    """A text."""
    messages: list[ChatMessage] | None = Field(default=None, min_length=1)
    """A conversation, put through the chat template."""
    add_special_tokens: bool | None = None
    """Unset: true for a text, false for messages, as in the generation routes."""
    add_generation_prompt: bool = True
    """For messages: end with the opening of the assistant's turn."""
    return_token_strs: bool = False
    """Each token's text too."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class DetokenizeBody(RequestBody):
    """Token ids."""

    tokens: list[int]
    """Ids of the model's vocabulary."""


class Tokenized(msgspec.Struct):
    """The answer to /tokenize."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None = None


class Detokenized(msgspec.Struct):
    """The answer to /detokenize."""

    prompt: str
