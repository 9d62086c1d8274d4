"""The engine's process as its server sees it: started, told what to load, waited for. No torch."""

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import Future

import msgspec

from engine.messages import Launch


class EngineChild:
    """A process that runs `engine.process`. It imports PyTorch at once, and waits to be told what to load.

    Not asyncio's own kind, which only a running event loop can start: most of an engine's start is that import, and it need
    not wait for the server's. When this process ends before it has said what to load, so does the other one.

    Attributes:
        pid: its number.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self) -> None:
        reader, writer = os.pipe()
        try:
            self._process = subprocess.Popen([sys.executable, "-m", "engine.process"], stdin=reader)
        except BaseException:
            os.close(writer)
            raise
        finally:
            os.close(reader)
        self.pid = self._process.pid
        self._has_ended: Future[None] = Future()
        # Nothing is left in it to be written when it closes: the other end may be gone by then.
        self._pipe = os.fdopen(writer, "wb", buffering=0)
        self._pipe_lock = threading.Lock()
        threading.Thread(target=self._wait, name=f"end of {self.pid}", daemon=True).start()

    @property
    def return_code(self) -> int | None:
        """Its exit status, the negative number of a signal, or None while it runs."""
        return self._process.poll()

    def launch(self, launch: Launch) -> None:
        """Say what to load. The pipe stays open: its end is how the process sees that its server is gone.

        Raises:
            OSError: the process has ended.
        """
        with self._pipe_lock:
            if self._pipe.closed:
                raise BrokenPipeError(f"process {self.pid} ended before it was told what to load")
            self._pipe.write(msgspec.json.encode(launch) + b"\n")

    def kill(self) -> None:
        """End it now; nothing happens where it has ended."""
        self._process.kill()

    async def wait(self) -> None:
        """Wait for its end. Whoever gives up waiting changes nothing for the others."""
        await asyncio.shield(asyncio.wrap_future(self._has_ended))

    def _wait(self) -> None:
        self._process.wait()
        with self._pipe_lock:
            self._pipe.close()
        self._has_ended.set_result(None)
