"""The comparisons of one server: one runs at a time, it can be watched and stopped, and results are kept."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from server.compare.errors import ComparisonError
from server.compare.plan import Job
from server.compare.records import ComparisonRecord, Ended, RecordStore, new_record
from server.compare.report import Comparison, Progress
from server.compare.run import Event, run_comparison

logger = logging.getLogger("headcount.compare")

COMPARISONS_FOLDER = "comparisons"


class Run:
    """A comparison from its start on.

    Args:
        record: of its start.

    Attributes:
        record: how it is now.
    """

    def __init__(self, record: ComparisonRecord) -> None:
        self.record = record
        self._events: list[Event | Ended] = []
        self._changed = asyncio.Event()

    @property
    def is_running(self) -> bool:
        """Whether it goes on."""
        return self.record.state == "running"

    def publish(self, event: Event) -> None:
        """Tell all who watch."""
        if isinstance(event, Progress):
            self.record = msgspec.structs.replace(self.record, progress=event)
        self._append(event)

    def end(self, ended: Ended, result: Comparison | None) -> None:
        """Tell all who watch that it is over."""
        self.record = msgspec.structs.replace(
            self.record, state=ended.state, error=ended.error, progress=None, result=result
        )
        self._append(ended)

    async def events(self) -> AsyncIterator[Event | Ended]:
        """All events from the start on, and those to come; `Ended` is the last one."""
        place = 0
        while True:
            while place < len(self._events):
                event = self._events[place]
                yield event
                if isinstance(event, Ended):
                    return
                place += 1
            await self._changed.wait()

    def _append(self, event: Event | Ended) -> None:
        self._events.append(event)
        self._changed.set()
        self._changed = asyncio.Event()


def replay(record: ComparisonRecord) -> Run:
    """A comparison that ended some time ago, as one that can be watched: its variants, then its end."""
    run = Run(record)
    for variant in record.result.variants if record.result else []:
        run.publish(variant)
    run.end(Ended(record.state, record.error), record.result)
    return run


class Comparisons:
    """Starts, finds and stops comparisons.

    Args:
        folder: for results.
        max_s: seconds that one may take.
    """

    def __init__(self, folder: Path, max_s: float) -> None:
        self._store = RecordStore(folder)
        self._max_s = max_s
        self._run: Run | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> Run | None:
        """The one that goes on."""
        return self._run if self._run is not None and self._run.is_running else None

    def start(self, job: Job, count_other_requests: Callable[[], int]) -> Run:
        """Begin one; none may be running.

        Raises:
            RuntimeError: one is.
        """
        if self.running is not None:
            raise RuntimeError("a comparison is running")
        run = Run(new_record(job.settings.model, [variant.num_kv_heads for variant in job.variants]))
        self._run = run
        self._task = asyncio.create_task(self._work(run, job, count_other_requests), name=f"comparison {run.record.id}")
        return run

    async def find(self, run_id: str) -> Run | None:
        """The comparison of that name, running or kept."""
        if self._run is not None and self._run.record.id == run_id:
            return self._run
        record = await asyncio.to_thread(self._store.load, run_id)
        return replay(record) if record else None

    async def all(self) -> list[ComparisonRecord]:
        """All that run or are kept, the newest first."""
        kept = await asyncio.to_thread(self._store.load_all)
        return [self.running.record, *kept] if self.running else kept

    async def remove(self, run_id: str) -> ComparisonRecord | None:
        """Stop the comparison of that name if it runs, and keep the result of an ended one no longer.

        Returns:
            What it was at its end; None where there is none of that name.
        """
        run = await self.find(run_id)
        if run is None:
            return None
        if run.is_running:
            await self._stop()
        else:
            await asyncio.to_thread(self._store.remove, run_id)
            self._run = None if run is self._run else self._run
        return run.record

    async def shutdown(self) -> None:
        """Stop the one that runs. Safe to call twice."""
        if self.running is not None:
            await self._stop()

    async def _stop(self) -> None:
        if self._task is not None and self._run is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            if self._run.is_running:  # it was stopped before it had begun
                self._run.end(Ended("stopped"), None)

    async def _work(self, run: Run, job: Job, count_other_requests: Callable[[], int]) -> None:
        """Run a comparison to its end, however it ends, and keep what came of it."""
        ended, result = Ended("stopped"), None
        try:
            async with asyncio.timeout(self._max_s):
                result = await run_comparison(job, run.publish, count_other_requests)
            ended = Ended("done")
        except TimeoutError:
            ended = Ended("failed", f"it took longer than the {self._max_s:g} s that max_compare_s allows")
        except ComparisonError as error:
            ended = Ended("failed", str(error))
        except Exception:
            logger.exception("the comparison %s failed with an error that nobody expected", run.record.id)
            ended = Ended("failed", "the server failed to make this comparison")
        finally:
            run.end(ended, result)
            self._keep(run.record)

    def _keep(self, record: ComparisonRecord) -> None:
        try:
            self._store.save(record)
        except OSError as error:
            logger.warning("the comparison %s cannot be kept: %s", record.id, error)
