"""What the refused are told proves right: simulated, with a clock of our own."""

import heapq
import math
import random

import pytest

from configs.scheduler import SchedulerSettings
from engine.errors import QueueFullError
from engine.retry_after import KEPT_S, LONGEST_S, SLACK, RetryAfter
from engine.streams import DeltaStream, OpenStreams
from tests.engine.tiny_models import make_request

LATE_S = 0.05
"""Clients come so much later than told, at most."""


def told(places: RetryAfter, now_s: float, num: int) -> list[float]:
    """What so many are told, one after the other."""
    return [places.promise(object(), now_s) for _ in range(num)]


def test_before_anything_has_ended_it_guesses() -> None:
    assert told(RetryAfter(), 100.0, 3) == pytest.approx([1.0, 2.0, 3.0])


def test_places_are_promised_one_after_the_other_at_the_measured_rate() -> None:
    places = RetryAfter()
    for i in range(10):
        places.ended(i * 0.5)
    place_s = 0.5 * SLACK
    assert told(places, 4.5, 3) == pytest.approx([place_s, 2 * place_s, 3 * place_s])
    assert places.promise("several", 4.5, num_places=4) == pytest.approx(7 * place_s)
    assert told(places, 5.0, 1) == pytest.approx([8 * place_s - 0.5], rel=0.05)


def test_a_pause_counts_before_it_ends() -> None:
    places = RetryAfter()
    for i in range(4):
        places.ended(float(i))
    assert told(places, 4.0, 1) == pytest.approx([SLACK])
    assert places.num_kept(40.0, 8) == 0
    assert told(places, 40.0, 1) == pytest.approx([10.0 * SLACK], rel=0.1)


def test_nobody_is_told_to_wait_for_ever() -> None:
    assert max(told(RetryAfter(), 0.0, 400)) == LONGEST_S


def test_those_who_find_no_place_as_told_come_before_the_line_one_after_the_other() -> None:
    places = RetryAfter()
    told(places, 0.0, 10)
    assert [places.promise_next(name, 1.0) for name in "ab"] == pytest.approx([1.0, 2.0])
    assert places.claim("a", 2.0)
    assert places.claim("b", 3.0)
    # Ten stand in the line still, and need ten seconds from now on; the next place is after theirs.
    assert told(places, 3.0, 1) == pytest.approx([11.0])


def test_a_place_is_kept_until_a_moment_after_its_time_and_given_once() -> None:
    places = RetryAfter()
    for name in ("a", "b"):
        places.promise(name, 0.0)
    assert places.num_kept(0.5, 2) == 2
    assert not places.claim("b", 0.2)
    assert places.claim("a", 0.2)
    assert not places.claim("a", 1.2)
    assert not places.claim("stranger", 1.2)
    assert places.num_kept(2.1, 2) == 1
    assert places.num_kept(2.1 + KEPT_S, 2) == 0
    assert not places.claim("b", 2.1 + KEPT_S)


def test_places_are_kept_for_those_who_come_before_one_that_is_taken_now_is_free_again() -> None:
    places = RetryAfter()
    for i in range(10):
        places.ended(i * 0.1)
    told(places, 1.0, 40)  # 8 are told 1 s, 9 more 2 s, ...
    assert [places.num_kept(1.0, 8), places.num_kept(1.2, 8), places.num_kept(1.2, 16)] == [0, 8, 17]


def test_where_nobody_comes_back_the_line_is_short() -> None:
    places = RetryAfter()
    for second in range(200):
        places.num_kept(10.0 * second, 8)
        assert places.promise(object(), 10.0 * second) < 1.5
    assert sum(told(places, 2000.0, 10)) < 0.2 * sum(told(RetryAfter(), 2000.0, 10))


@pytest.mark.parametrize("service_s", [0.2, 0.5, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_with_ten_times_too_many_clients_the_refused_come_in_as_they_were_told(service_s: float, seed: int) -> None:
    """They come back in whole seconds, as the header says, while new ones go on coming."""
    waits = simulate(service_s, num_clients=80, rush_s=8 * service_s, rng=random.Random(seed))
    assert len(waits) > 40
    assert [wait for wait in waits if not is_right(*wait)] == []


@pytest.mark.parametrize("seed", range(3))
def test_whoever_asks_the_next_question_at_once_does_not_overtake_those_who_were_told_to_come_later(seed: int) -> None:
    waits = simulate(0.05, num_clients=80, rush_s=0.4, rng=random.Random(seed), num_questions=10)
    assert len(waits) > 400
    assert sum(is_right(*wait) for wait in waits) > 0.98 * len(waits)


def is_right(told_s: float, waited_s: float) -> bool:
    return 0.5 * told_s <= waited_s <= 2 * (told_s + LATE_S)


def simulate(
    service_s: float, num_clients: int, rush_s: float, rng: random.Random, num_questions: int = 1
) -> list[tuple[float, float]]:
    """(first told, really waited) of every question that was refused: 8 places, worked off one after the other."""
    clock = [0.0]
    streams = OpenStreams(SchedulerSettings(max_num_seqs=2, max_num_waiting=6), on_close=lambda _: None)
    for i in range(20):  # what ran before the rush
        streams._retry_after.ended((i - 20) * service_s)
    events: list[tuple[float, int, int, DeltaStream | None]] = [
        (rng.uniform(0, rush_s), client, 0, None) for client in range(num_clients)
    ]
    heapq.heapify(events)
    free_s, first, waits = 0.0, {}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.streams.time.monotonic", lambda: clock[0])
        while events:
            now_s, client, question, stream = heapq.heappop(events)
            clock[0] = now_s
            if stream is not None:
                stream.close()
                if question + 1 < num_questions:
                    heapq.heappush(events, (now_s + rng.uniform(0, LATE_S), client, question + 1, None))
                continue
            token_ids = [client, question]
            try:
                streams.check_room([token_ids], 1)
            except QueueFullError as error:
                said = math.ceil(error.retry_after_s)
                first.setdefault((client, question), (said, now_s))
                heapq.heappush(events, (now_s + said + rng.uniform(0, LATE_S), client, question, None))
                continue
            free_s = max(free_s, now_s) + service_s * rng.uniform(0.6, 1.4)
            stream = streams.add(make_request(f"{client} {question}", token_ids))
            heapq.heappush(events, (free_s, client, question, stream))
            if (client, question) in first:
                said, asked_s = first[client, question]
                waits.append((said, now_s - asked_s))
    return waits
