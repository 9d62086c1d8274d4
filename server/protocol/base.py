"""What all request models share: strict types, nothing unknown, and a plain word about what is not built."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from server.errors import invalid_request


def _refuse(value: object) -> None:
    if value is not None:
        raise PydanticCustomError("unsupported_field", "this field is not supported by this server")


def _nullable(field: JsonSchemaValue) -> JsonSchemaValue:
    """The schema of a field, or null."""
    options = field.get("anyOf", [])
    if {"type": "null"} in options or field.get("type") == "null":
        return field
    about: JsonSchemaValue = {name: field[name] for name in ("title", "description", "default") if name in field}
    kinds = options or [{name: value for name, value in field.items() if name not in about}]
    return {"anyOf": [*kinds, {"type": "null"}], **about}


Unsupported = Annotated[None, BeforeValidator(_refuse)]
"""A field that this server does not act on; clients may send null for it."""


class WireModel(BaseModel):
    """A part of a request body. Wrong types, unknown fields and values out of range are refused (400)."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The description says of every field that may be left out that it may be null too."""
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        for name, field in schema.get("properties", {}).items():
            if name not in schema.get("required", []):
                schema["properties"][name] = _nullable(field)
        return reference

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

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """See WireModel. Fields that nothing acts on are described by the values that they may have."""
        reference = super().__get_pydantic_json_schema__(core_schema, handler)
        properties = handler.resolve_ref_schema(reference)["properties"]
        for name, harmless in cls.unsupported.items():
            properties[name] = {
                "enum": [*harmless, None],
                "description": "Not supported: only values that ask for nothing.",
            }
        return reference

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        for name, harmless in cls.unsupported.items():
            if name in body and body[name] is not None and body[name] not in harmless:
                raise invalid_request(f"{name} is not supported by this server", code="unsupported_field", param=name)
        return {name: value for name, value in body.items() if name not in cls.unsupported}
