"""Which request an engine died of, as far as can be known."""

import pytest

from engine.errors import EngineUnavailableError, RequestRefusedError
from engine.request import Request
from engine.suspects import FORGET_AFTER_S, MAX_NUM_RECORDS, Suspects
from tests.engine.tiny_models import make_request


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def suspects(clock: Clock) -> Suspects:
    return Suspects(clock)


def ask(*prompt: int, name: str = "any", **fields: object) -> Request:
    return make_request(name, list(prompt), **fields)


def is_refused(suspects: Suspects, request: Request) -> bool:
    try:
        suspects.check(request, [])
    except RequestRefusedError as error:
        assert error.code == "engine_killed"
        return True
    return False


def test_a_request_that_is_alone_at_two_deaths_is_refused_the_third_time(suspects: Suspects) -> None:
    suspects.engine_died([ask(1, 2, name="first try")])
    assert not is_refused(suspects, ask(1, 2))
    suspects.engine_died([ask(1, 2, name="second try")])
    assert is_refused(suspects, ask(1, 2, name="third try"))
    assert not is_refused(suspects, ask(1, 2, 3))
    assert not is_refused(suspects, ask(1, 2, temperature=0.5))


def test_the_only_one_that_is_there_both_times_is_refused(suspects: Suspects) -> None:
    suspects.engine_died([ask(0), *(ask(1, i) for i in range(31))])
    suspects.engine_died([ask(0), *(ask(2, i) for i in range(31))])
    assert is_refused(suspects, ask(0))
    assert not any(is_refused(suspects, ask(kind, i)) for kind in (1, 2) for i in range(31))


def test_those_that_are_both_there_both_times_run_one_at_a_time(suspects: Suspects) -> None:
    both = [ask(1), ask(2)]
    for _ in range(2):
        suspects.engine_died(both)
    suspects.check(both[0], [ask(3)])
    with pytest.raises(EngineUnavailableError, match="one at a time") as caught:
        suspects.check(both[1], [ask(3), both[0]])
    assert caught.value.retry_after_s > 0
    suspects.ended_well(both[0])
    suspects.check(both[1], [ask(3), both[0]])
    suspects.engine_died([both[1], both[0], ask(3)])
    assert is_refused(suspects, both[1])
    assert not is_refused(suspects, both[0])


def test_a_request_that_ends_well_is_none(suspects: Suspects) -> None:
    suspects.engine_died([ask(1)])
    suspects.ended_well(ask(1))
    suspects.engine_died([ask(1)])
    assert not is_refused(suspects, ask(1))


def test_it_is_forgotten_after_a_while(suspects: Suspects, clock: Clock) -> None:
    for _ in range(2):
        suspects.engine_died([ask(1)])
    clock.now_s += FORGET_AFTER_S - 1
    assert is_refused(suspects, ask(1))
    clock.now_s += 2
    assert not is_refused(suspects, ask(1))


def test_no_more_than_a_number_is_kept(suspects: Suspects) -> None:
    for i in range(3):
        suspects.engine_died([ask(i, j) for j in range(MAX_NUM_RECORDS // 2)])
    assert len(suspects._records) == MAX_NUM_RECORDS
