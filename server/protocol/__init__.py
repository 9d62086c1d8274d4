"""The wire: request bodies as pydantic models, responses and chunks as msgspec structs."""
