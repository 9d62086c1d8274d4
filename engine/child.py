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
        # THP_MEM_ALLOC_ENABLE: PyTorch asks for huge pages, so that zeroing the KV pool takes a third of the time.
        env = {"THP_MEM_ALLOC_ENABLE": "1", **os.environ}
        self._process = subprocess.Popen([sys.executable, "-m", "engine.process"], stdin=subprocess.PIPE, env=env)
        self._has_ended: Future[None] = Future()
        self.pid = self._process.pid
        threading.Thread(target=self._wait, name=f"end of {self.pid}", daemon=True).start()

    @property
    def return_code(self) -> int | None:
        """Its exit status, the negative number of a signal, or None while it runs."""
        return self._process.poll()

    def launch(self, launch: Launch) -> None:
        """Say what to load. The pipe stays open: its end is how the process sees that its server is gone."""
        if self._process.stdin is not None:
            self._process.stdin.write(msgspec.json.encode(launch) + b"\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """End it now; nothing happens where it has ended."""
        self._process.kill()

    async def wait(self) -> None:
        """Wait for its end. Whoever gives up waiting changes nothing for the others."""
        await asyncio.shield(asyncio.wrap_future(self._has_ended))

    def _wait(self) -> None:
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._has_ended.set_result(None)
