"""What every settings model shares."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen settings model whose fields are documented by the string under each of them.

    Raises:
        pydantic.ValidationError: a value is out of range, of the wrong type, or a key is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())
