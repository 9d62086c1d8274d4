"""What all request models share: strict types, nothing unknown, and a plain word about what is not built."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from server.errors import invalid_request


def _refuse(value: object) -> None:
    if value is not None:
        raise PydanticCustomError("unsupported_field", "this field is not supported by this server")


Unsupported = Annotated[None, BeforeValidator(_refuse)]
"""A field that this server does not act on; clients may send null for it."""


class WireModel(BaseModel):
    """A part of a request body. Wrong types, unknown fields and values out of range are refused (400)."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, body: Any) -> Any:
        """Null says the same as leaving a field out: clients send it for whatever they do not set."""
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if value is not None or name not in cls.model_fields}


class RequestBody(WireModel):
    """A whole request body.

    Attributes:
        unsupported: fields of the OpenAI API or of its common extensions that this server does not act on, each with
            the values that ask for nothing.
    """

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {}

    model: str
    """Name of a served model."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        for name, harmless in cls.unsupported.items():
            if name in body and body[name] is not None and body[name] not in harmless:
                raise invalid_request(f"{name} is not supported by this server", code="unsupported_field", param=name)
        return {name: value for name, value in body.items() if name not in cls.unsupported}
