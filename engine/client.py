"""The async client of an engine process: the server's whole view of the engine."""

import enum
from collections.abc import AsyncIterator
from pathlib import Path

from configs.engine import EngineSettings
from engine.info import EngineInfo, EngineStats
from engine.request import Request, TokenDelta


class EngineState(enum.StrEnum):
    """What the engine process does now."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"
    """Ended for good: by shutdown(), or because the model cannot be loaded (`failure` says why)."""


class EngineClient:
    """Starts, supervises and talks to one engine process.

    Args:
        model_name: the name clients use.
        folder: the checkpoint.
        settings: what the engine process is told.
    """

    def __init__(self, model_name: str, folder: Path, settings: EngineSettings) -> None:
        self.model_name = model_name
        self.state = EngineState.LOADING
        self.failure: str | None = None
        self.info: EngineInfo | None = None
        self.stats = EngineStats()
        self.num_restarts = 0

    async def start(self) -> None:
        """Start the process and return; `wait_ready` waits for the model."""
        raise NotImplementedError

    async def wait_ready(self) -> EngineInfo:
        """Wait until the model is loaded.

        Raises:
            ModelLoadError: it cannot be loaded.
        """
        raise NotImplementedError

    def generate(self, request: Request) -> AsyncIterator[TokenDelta]:
        """Send `request` and yield its deltas; the last one carries the finish reason.

        Closing the iterator early (aclose, cancellation) aborts the request.

        Raises:
            RequestRefusedError, QueueFullError, EngineUnavailableError: before the first delta.
        """
        raise NotImplementedError

    async def shutdown(self) -> None:
        """End the process: running requests are aborted."""
        raise NotImplementedError
