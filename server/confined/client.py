"""The server's side of a confined process: starts it with the first job, and again after one that it did not survive."""

import asyncio
import contextlib
import signal
import sys

from server.confined.jobs import HEADER, Answer, Job, Task, decode_answer, frame


class LimitError(Exception):
    """A job took more than it may; the message says of what."""


class ConfinedProcess:
    """One process, one job at a time.

    Args:
        limit_s: processor time for a job.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._jobs: set[asyncio.Task[Answer]] = set()

    async def run(self, job: Job) -> Answer:
        """Do a job when those before it are done.

        Raises:
            LimitError: it takes too long, or too much memory.
        """
        # Whoever asked may leave meanwhile, but half a job would leave its answer to the next one.
        task = asyncio.create_task(self._run(job))
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End the process. Safe to call twice."""
        for task in self._jobs:
            task.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _run(self, job: Job) -> Answer:
        async with self._turn:
            process = await self._started()
            try:
                return await _exchange(process, Task(job, self._limit_s))
            except (asyncio.IncompleteReadError, ConnectionError):
                self._process = None
                code = await process.wait()  # its output has ended, so has it
                raise LimitError(self._what_ended_it(code)) from None

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            pipe = asyncio.subprocess.PIPE
            command = (sys.executable, "-m", "server.confined.process")
            self._process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        return self._process

    def _what_ended_it(self, code: int) -> str:
        if code == -signal.SIGPROF:
            return f"it takes longer than {self._limit_s:g} s"
        return "it takes more memory or depth than there is"


async def _exchange(process: asyncio.subprocess.Process, task: Task) -> Answer:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the confined process was started without pipes")
    process.stdin.write(frame(task))
    await process.stdin.drain()
    [size] = HEADER.unpack(await process.stdout.readexactly(HEADER.size))
    answer: Answer = decode_answer(await process.stdout.readexactly(size))
    return answer
