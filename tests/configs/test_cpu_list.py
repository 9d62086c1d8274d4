"""Lists of CPUs, there and back, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.cpu_list import format_cpu_list, parse_cpu_list
from configs.model import ModelSettings


def test_by_hand() -> None:
    assert parse_cpu_list("0-3,8") == {0, 1, 2, 3, 8}
    assert parse_cpu_list(" 5, 2-2 ") == {2, 5}
    assert format_cpu_list(frozenset({8, 0, 1, 2})) == "0-2,8"


@given(st.frozensets(st.integers(0, 200), min_size=1))
def test_there_and_back(cpus: frozenset[int]) -> None:
    assert parse_cpu_list(format_cpu_list(cpus)) == cpus


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "0,,1", "0-99999", "1.5", "0-1-2"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='must be a list of CPUs like "0-3,8"'):
        parse_cpu_list(text)
    with pytest.raises(ValidationError, match="must be a list of CPUs"):
        ModelSettings(cpu_affinity=text)
