"""Functions that a model may call, and its calls of them, in OpenAI's shapes."""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, field_validator

from server.protocol.base import WireModel
from server.protocol.structured import Name

MAX_TOOLS = 128


class FunctionDefinition(WireModel):
    """A function that the model may call."""

    name: Name
    """By which the model calls it."""
    description: str | None = None
    """What it does, for the model."""
    parameters: dict[str, Any] | None = None
    """JSON schema of its arguments; none: no arguments."""
    strict: bool | None = None
    """Keep the model to the schema of the arguments also where it decides itself whether to call."""


class Tool(WireModel):
    """Something that the model may use."""

    type: Literal["function"]
    """Functions are all there is."""
    function: FunctionDefinition
    """The function."""

    def as_template_input(self) -> dict[str, Any]:
        """The tool as chat templates expect it."""
        return {"type": "function", "function": self.function.model_dump(exclude_none=True, exclude={"strict"})}


class FunctionName(WireModel):
    """A function of `tools`."""

    name: str
    """Its name."""


class NamedToolChoice(WireModel):
    """The model must call this function."""

    type: Literal["function"]
    """Functions are all there is."""
    function: FunctionName
    """Which."""


ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice
Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS)]


class FunctionCall(WireModel):
    """A function and what it was called with."""

    name: str
    """The function."""
    arguments: str
    """A JSON object, as text."""
    parsed_arguments: Any = None
    """In messages that clients send back as they parsed them; no effect."""

    @field_validator("arguments")
    @classmethod
    def _is_object(cls, arguments: str) -> str:
        try:
            is_object = isinstance(msgspec.json.decode(arguments or "{}"), dict)
        except msgspec.DecodeError:
            is_object = False
        if not is_object:
            raise ValueError("arguments must be a JSON object, written as a string")
        return arguments


class ToolCall(WireModel):
    """A call in a message that a client sends back."""

    id: str
    """Which its result names."""
    index: int | None = None
    """In messages that clients put together from a stream; no effect."""
    type: Literal["function"] = "function"
    """Functions are all there is."""
    function: FunctionCall
    """The call."""

    def as_template_input(self) -> dict[str, Any]:
        """The call as chat templates expect it: with the arguments as an object."""
        arguments = msgspec.json.decode(self.function.arguments or "{}")
        return {"id": self.id, "type": "function", "function": {"name": self.function.name, "arguments": arguments}}
