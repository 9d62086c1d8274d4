"""What an output must look like, as OpenAI's clients say it (`response_format`) and as others do (`structured_outputs`)."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from server.protocol.base import WireModel

MAX_CHOICES = 1000

Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class TextFormat(WireModel):
    """Any text."""

    type: Literal["text"]
    """The kind of format."""


class JSONObjectFormat(WireModel):
    """Any JSON object."""

    type: Literal["json_object"]
    """The kind of format."""


class JSONSchema(WireModel):
    """A schema and its name."""

    model_config = ConfigDict(populate_by_name=True)

    name: Name
    """For people."""
    description: str | None = None
    """For people."""
    json_schema: dict[str, Any] = Field(alias="schema")
    """JSON Schema, as far as llguidance knows it: what it does not know is refused."""
    strict: bool | None = None
    """The schema is always kept to, whatever this says."""


class JSONSchemaFormat(WireModel):
    """JSON that a schema describes."""

    type: Literal["json_schema"]
    """The kind of format."""
    json_schema: JSONSchema
    """The schema."""


ResponseFormat = Annotated[TextFormat | JSONObjectFormat | JSONSchemaFormat, Field(discriminator="type")]


class StructuredOutputs(WireModel):
    """What the output must match: one of these."""

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    """A JSON schema, as an object or as text."""
    regex: str | None = Field(default=None, min_length=1)
    """A regular expression for the whole output, in Rust's syntax: no look-around, no back-references."""
    choice: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=1, max_length=MAX_CHOICES)
    """One of these texts."""
    grammar: str | None = Field(default=None, min_length=1)
    """A context-free grammar in llguidance's dialect of Lark."""

    @model_validator(mode="after")
    def _is_one(self) -> "StructuredOutputs":
        given = [
            name for name in ("json", "regex", "choice", "grammar") if getattr(self, _ATTRIBUTES[name]) is not None
        ]
        if len(given) != 1:
            message = "structured_outputs must hold one of json, regex, choice and grammar, got {given}"
            raise PydanticCustomError("invalid_value", message, {"given": " and ".join(given) or "none"})
        return self


_ATTRIBUTES = {"json": "json_", "regex": "regex", "choice": "choice", "grammar": "grammar"}
