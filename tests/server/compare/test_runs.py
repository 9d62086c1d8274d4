"""One comparison at a time: watched, stopped, kept."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.compare import runs
from server.compare.errors import ComparisonFailedError
from server.compare.records import Ended, RecordStore
from server.compare.report import Comparison, Progress
from server.compare.run import Event
from server.compare.runs import Comparisons, Run
from tests.server.compare.small_jobs import make_comparison, make_job

pytestmark = pytest.mark.anyio

Work = Callable[[Callable[[Event], None]], Any]
STEP = Progress("load", 9, 1, 4)


class Place:
    """Comparisons whose work is the test's own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, max_s: float = 30.0) -> None:
        self.job = make_job(folder / "model")
        self.kept = RecordStore(folder / "kept")
        self.comparisons = Comparisons(folder / "kept", max_s)
        self._monkeypatch = monkeypatch

    def start(self, work: Work) -> Run:
        async def run_comparison(job: object, on_event: Callable[[Event], None], count: object) -> Comparison:
            await work(on_event)
            return make_comparison(self.job)

        self._monkeypatch.setattr(runs, "run_comparison", run_comparison)
        return self.comparisons.start(self.job, lambda: 0)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


async def collect(run: Run) -> list[Event | Ended]:
    return [event async for event in run.events()]


async def forever(on_event: Callable[[Event], None]) -> None:
    on_event(STEP)
    await asyncio.Event().wait()


async def briefly(on_event: Callable[[Event], None]) -> None:
    on_event(STEP)
    await asyncio.sleep(0)
    on_event(STEP)


async def test_all_who_watch_see_every_event_whenever_they_come(place: Place) -> None:
    run = place.start(briefly)
    early, also = await asyncio.gather(collect(run), collect(run))
    assert early == also == await collect(run) == [STEP, STEP, Ended("done")]
    assert run.record.result is not None
    assert run.record.progress is None
    assert place.comparisons.running is None


async def test_a_result_is_kept_and_can_be_watched_again(place: Place, tmp_path: Path) -> None:
    run = place.start(briefly)
    await collect(run)
    await asyncio.sleep(0)
    later = Comparisons(tmp_path / "kept", 1.0)
    found = await later.find(run.record.id)
    assert found is not None
    *variants, last = await collect(found)
    assert [variant.planned.num_kv_heads for variant in variants] == [9, 3, 1]  # type: ignore[union-attr]
    assert last == Ended("done")
    assert [record.id for record in await later.all()] == [run.record.id]


async def test_only_one_runs_at_a_time(place: Place) -> None:
    run = place.start(forever)
    with pytest.raises(RuntimeError, match="a comparison is running"):
        place.start(forever)
    assert [record.state for record in await place.comparisons.all()] == ["running"]
    await place.comparisons.shutdown()
    assert run.record.state == "stopped"
    await place.comparisons.shutdown()


async def test_one_that_is_stopped_says_so_and_makes_room(place: Place) -> None:
    run = place.start(forever)
    watcher = asyncio.create_task(collect(run))
    await asyncio.sleep(0.01)
    assert run.record.progress == STEP
    record = await place.comparisons.remove(run.record.id)
    assert record is not None
    assert record.state == "stopped"
    assert await watcher == [STEP, Ended("stopped")]
    assert place.kept.load(run.record.id) is not None
    again = place.start(briefly)
    await collect(again)
    assert again.record.state == "done"


async def test_one_that_is_stopped_before_it_began_ends_too(place: Place) -> None:
    run = place.start(forever)
    await place.comparisons.remove(run.record.id)
    assert await collect(run) == [Ended("stopped")]
    assert place.comparisons.running is None


async def test_an_ended_one_can_be_removed(place: Place) -> None:
    run = place.start(briefly)
    await collect(run)
    await asyncio.sleep(0)
    await place.comparisons.remove(run.record.id)
    assert await place.comparisons.find(run.record.id) is None
    assert await place.comparisons.remove(run.record.id) is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ComparisonFailedError("MHA, 9 KV heads: no"), "MHA, 9 KV heads: no"),
        (ValueError("/secret/path"), "the server failed to make this comparison"),
    ],
)
async def test_a_failure_is_told_and_a_bug_is_not_shown(place: Place, error: Exception, said: str) -> None:
    async def fail(on_event: object) -> None:
        raise error

    run = place.start(fail)
    assert await collect(run) == [Ended("failed", said)]
    assert (run.record.state, run.record.error) == ("failed", said)


async def test_one_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Place(tmp_path, monkeypatch, max_s=0.05).start(forever)
    *_, last = await collect(run)
    assert isinstance(last, Ended)
    assert (last.state, "0.05 s that max_compare_s allows" in (last.error or "")) == ("failed", True)
