"""A server of the fake engine on a real socket, in a thread."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from server import run
from server.run import DrainingServer
from tests.server.fake_engine import FakeServer


class Running:
    """Serves `fake` while its context is open; what signals do is called by hand.

    Attributes:
        server: uvicorn's.
        port: of its socket.
        url: where it is.
    """

    def __init__(self, fake: FakeServer) -> None:
        http = fake.state.http.model_copy(update={"port": 0})
        listener = run._listen(http)
        self.port: int = listener.getsockname()[1]
        self.url = f"http{'s' if http.tls_certificate else ''}://127.0.0.1:{self.port}"
        self.server = DrainingServer(run.uvicorn_config(http, fake.app), fake.state)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, args=([listener],))
        self._thread.start()
        while not self.server.started:
            time.sleep(0.005)

    def call(self, function: Callable[[], Any]) -> None:
        """Run `function` in the server's event loop."""
        done = threading.Event()
        assert self._loop is not None
        self._loop.call_soon_threadsafe(lambda: (function(), done.set()))
        assert done.wait(5)

    def ends_within(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def num_connections(self) -> int:
        return len(self.server.server_state.connections)

    def _run(self, sockets: list[Any]) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self.server.serve(sockets=sockets)

        asyncio.run(serve())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.force_exit = self.server.should_exit = True
        self._thread.join(10)
