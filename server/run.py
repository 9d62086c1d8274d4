"""Runs the application: the socket, the signals, the drain, the exit code."""

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import socket
import threading
import time
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from configs.http import HTTPSettings
from configs.tracing import TracingSettings
from engine.client import EngineState
from server.app import create_app
from server.certificate import check_certificate, reload_certificate
from server.connection import bounded_protocol, watch_peers
from server.served_model import ServedModel, ServerState, load_served_model
from server.tracing import start_tracing

__all__ = ["load_served_model", "serve"]

logger = logging.getLogger("headcount.server")

DRAIN_POLL_S = 0.05
BACKLOG = 2048
OTHER_FILES = 256
"""Descriptors beside connections: models, logs, engines."""
SAME_SIGNAL_S = 1.0
NO_TRACING = TracingSettings()


def serve(http: HTTPSettings, models: dict[str, ServedModel], tracing: TracingSettings = NO_TRACING) -> int:
    """Serve until SIGTERM or SIGINT; a second one ends running requests too, a third one waits for nothing.

    Args:
        http: where to listen, and limits.
        models: by name.
        tracing: where traces go.

    Returns:
        The exit code: 0 after an orderly end, 1 where the server could not start or its only model cannot be loaded.

    Raises:
        SettingsError: a file of keys or of the certificate cannot be used, or traces are asked for and not installed.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    check_certificate(http)
    app = create_app(http, models, start_tracing(tracing))
    try:
        listener = _listen(http)
    except OSError as error:
        logger.error("%s", error)
        return 1
    host, port = listener.getsockname()[:2]
    _allow_connections(http.max_num_connections)
    logger.info("listening on http%s://%s", "s" if http.tls_certificate else "", _address(host, port))
    gc.freeze()  # modules and routes stay: no collection has to look at them again, between two tokens
    server = DrainingServer(uvicorn_config(http, app), app.state.server)
    server.run(sockets=[listener])
    return server.exit_code


def uvicorn_config(http: HTTPSettings, app: ASGIApp) -> uvicorn.Config:
    """How uvicorn is to serve `app`."""
    return uvicorn.Config(
        LoggedOnce(app),
        http=bounded_protocol(http),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
        server_header=False,
        lifespan="on",
        ssl_certfile=http.tls_certificate,
        ssl_keyfile=http.tls_key,
    )


class LoggedOnce:
    """Keeps uvicorn from logging again what the application's error handler has logged and answered already.

    Args:
        app: the application; after its handler, it raises the exception anew.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        try:
            await self._app(scope, receive, send)
        except Exception:
            if scope["type"] != "http":
                raise
            logger.debug("an exception reached the edge of the application", exc_info=True)


class DrainingServer(uvicorn.Server):
    """A uvicorn server that lets running requests finish before it ends.

    Args:
        config: uvicorn's.
        state: of the application.

    Attributes:
        exit_code: what the process should end with.
    """

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config)
        self.exit_code = 0
        self._state = state
        self._drain: asyncio.Task[None] | None = None
        self._signal_times_s: list[float] = []
        self._had_terminal = _has_terminal()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to end; SIGHUP reads the files of keys and of the certificate again."""
        if threading.current_thread() is threading.main_thread():  # elsewhere no signal arrives
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.handle_hangup)
        await super().serve(sockets)

    def handle_hangup(self) -> None:
        """Read the files again; where the signal says that the terminal is gone, drain as at SIGTERM."""
        if self._had_terminal and not _has_terminal():
            self.handle_exit(signal.SIGHUP, None)
            return
        self._state.keys.reload()
        reload_certificate(self.config.ssl, self._state.http)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: running requests end now, each with an error. Third: the process ends.

        One that follows at once is the same one: a signal to a process group comes a second time from `make`.
        """
        now_s = time.monotonic()
        if self._signal_times_s and now_s - self._signal_times_s[-1] < SAME_SIGNAL_S:
            return
        self._signal_times_s.append(now_s)
        name = signal.Signals(sig).name
        if len(self._signal_times_s) == 1:
            logger.info("%s: no new requests; running ones may finish", name)
            self._state.is_draining = True
        elif len(self._signal_times_s) == 2:
            logger.info("%s again: running requests end now", name)
        else:
            self.force_exit = True
            self.should_exit = True

    @property
    def _is_in_a_hurry(self) -> bool:
        return len(self._signal_times_s) > 1

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second: whether to end."""
        if self._state.is_draining and self._drain is None:
            self._drain = asyncio.create_task(self._end_after_drain())
        clients = [model.client for model in self._state.models.values()]
        if all(client.state is EngineState.STOPPED and client.failure for client in clients):
            logger.error("no model can be served")
            self.exit_code = 1
            self.should_exit = True
        return await super().on_tick(counter)

    async def _end_after_drain(self) -> None:
        """Wait for the open requests, at most drain_timeout_s, then tell uvicorn to end."""
        deadline_s = time.monotonic() + self._state.http.drain_timeout_s
        while self._state.num_open_requests and not self._is_in_a_hurry and time.monotonic() < deadline_s:
            await asyncio.sleep(DRAIN_POLL_S)
        if self._state.num_open_requests:
            logger.warning("%d requests were still running: they are cut off", self._state.num_open_requests)
        await self._state.comparisons.shutdown()
        # Ends every open stream with an error event and [DONE], which uvicorn would not.
        await asyncio.gather(*(model.client.shutdown() for model in self._state.models.values()))
        self.should_exit = True


def _allow_connections(num_connections: int) -> None:
    """Raise this process's own limit of open files to what its connections need, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _has_terminal() -> bool:
    """Whether this process can still reach the terminal it was started from."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _listen(http: HTTPSettings) -> socket.socket:
    """The bound socket.

    Raises:
        OSError: the port is taken, or the address cannot be bound; the message says what to do.
    """
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    watch_peers(listener)
    try:
        listener.bind((http.host, http.port))
        listener.listen(BACKLOG)  # at once: who reads the log line may connect, and waits until the application is up
    except OSError as error:
        listener.close()
        remedy = "it is in use; stop the other server or choose another --port"
        reason = remedy if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise OSError(f"cannot listen on {_address(http.host, http.port)}: {reason}") from None
    return listener


def _address(host: str, port: int) -> str:
    """`127.0.0.1:8000`, `[::1]:8000`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
