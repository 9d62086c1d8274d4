"""Typed settings: pydantic, frozen, nothing unknown accepted; one file a concern. Imports nothing of ours."""
