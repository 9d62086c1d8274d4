"""The numbers in docs/kv-cache.md are those of the code."""

import doctest
from pathlib import Path


def test_the_examples_of_the_document() -> None:
    path = Path(__file__).parents[2] / "docs" / "kv-cache.md"
    result = doctest.testfile(str(path), module_relative=False)
    assert result.attempted >= 15
    assert result.failed == 0
