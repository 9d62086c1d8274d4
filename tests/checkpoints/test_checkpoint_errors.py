"""What errors say."""

import inspect

import pytest

from checkpoints import errors
from checkpoints.errors import CheckpointError


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "it is wrong"),
        ({"expected": "1"}, "it is wrong: expected 1"),
        ({"given": "2"}, "it is wrong: got 2"),
        ({"expected": "1", "given": "2", "remedy": "Do so"}, "it is wrong: expected 1, got 2. Do so"),
        ({"remedy": "Do so"}, "it is wrong. Do so"),
    ],
)
def test_message(parts: dict[str, str], message: str) -> None:
    error = CheckpointError("it is wrong", **parts)
    assert str(error) == message
    assert error.what == "it is wrong"
    assert error.remedy == parts.get("remedy", "")


def test_the_tree_is_drawn_in_full() -> None:
    kinds = [name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, CheckpointError)]
    assert all(name in str(errors.__doc__) for name in kinds)
