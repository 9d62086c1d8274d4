"""What all request models share: strict types, nothing unknown, and a plain word about what is not built."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from server.errors import invalid_request


class WireModel(BaseModel):
    """A part of a request body. Wrong types, unknown fields and values out of range are refused (400)."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


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
        # null says the same as leaving a field out: clients send it for whatever they do not set.
        return {name: value for name, value in body.items() if name not in cls.unsupported and value is not None}
