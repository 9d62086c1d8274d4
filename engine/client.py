"""The async client of an engine process: the server's whole view of the engine. No torch.

It starts the process, watches it, restarts it with growing pauses when it dies, and turns its messages into one stream
of TokenDelta per request.
"""

import asyncio
import contextlib
import enum
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from configs.engine import EngineSettings
from engine.admission import check_request
from engine.child import EngineChild
from engine.errors import EngineUnavailableError, ModelLoadError
from engine.info import EngineInfo, EngineStats, RequestState
from engine.messages import (
    Abort,
    Add,
    AskAttention,
    AskBlocks,
    AskRequests,
    AttentionAnswer,
    BlocksAnswer,
    Failed,
    Launch,
    Learn,
    Ready,
    RequestsAnswer,
    StepResult,
    Stop,
    ToEngine,
    decode_from_engine,
    encode,
)
from engine.questions import OpenQuestions
from engine.request import FinishReason, Request, TokenDelta
from engine.streams import DeltaStream, OpenStreams
from engine.suspects import Suspects
from engine.token_bytes import TokenBytes
from engine.watchdog import Watchdog
from kvcache.block_map import BlockSnapshot

logger = logging.getLogger("headcount.client")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STOP_TIMEOUT_S = 5.0
DELTAS_AT_ONCE = 16
LAST_WORDS_MS = 50
"""How long to look for messages that a process sent just before it ended."""


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
        read_token_bytes: what its tokens stand for; called when the first request with a grammar comes.
        child: a process that was started beforehand, to be its first one; None: `start` starts it.

    Attributes:
        folder: the checkpoint.
        settings: what the engine process is told.
        state: what the process does now.
        failure: why the model cannot be loaded, if so.
        info: the loaded engine's facts; None until it was ready once.
        stats: the newest snapshot.
        num_restarts: how often the process had to be started again.
        num_requests: that were sent to it so far.
        on_stats: called with every snapshot.
    """

    def __init__(
        self,
        model_name: str,
        folder: Path,
        settings: EngineSettings,
        read_token_bytes: Callable[[], TokenBytes] = lambda: TokenBytes([], []),
        child: EngineChild | None = None,
    ) -> None:
        self.model_name = model_name
        self.state = EngineState.LOADING
        self.failure: str | None = None
        self.info: EngineInfo | None = None
        self.stats = EngineStats()
        self.num_restarts = 0
        self.num_requests = 0
        self.on_stats: Callable[[EngineStats], None] | None = None
        self.folder = folder
        self.settings = settings
        self._read_token_bytes = read_token_bytes
        self._has_sent_token_bytes = False
        self._streams = OpenStreams(settings.scheduler, on_close=lambda request_id: self._send(Abort(request_id)))
        self._suspects = Suspects()
        self._watchdog = Watchdog(settings.scheduler.step_timeout_s, has_work=self._has_work)
        self._loss = "died"
        """What happened to the process, for clients and the log."""
        self._ready_s = 0.0
        self._questions = OpenQuestions(self._send)
        self._known = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._child = child
        self._socket: zmq.asyncio.Socket | None = None
        self._sends: set[asyncio.Future[Any]] = set()
        self._is_stopping = False

    @property
    def pid(self) -> int | None:
        """Of the process that was started last."""
        return self._child.pid if self._child else None

    async def start(self) -> None:
        """Start the process and return; `wait_ready` waits for the model."""
        self._supervisor = asyncio.create_task(self._supervise(), name=f"engine {self.model_name}")

    async def wait_ready(self) -> EngineInfo:
        """Wait until the model is loaded.

        Raises:
            ModelLoadError: it cannot be loaded.
        """
        await self._known.wait()
        if self.info is None:
            raise ModelLoadError(self.failure or f"the engine of {self.model_name!r} was shut down while it loaded")
        return self.info

    def generate(self, request: Request) -> DeltaStream:
        """Send `request` now; its deltas come from the stream. When the engine dies, the last one is an error.

        Raises:
            RequestRefusedError: it can never run, or engines died of it.
            QueueFullError: too many wait already.
            EngineUnavailableError: the engine is loading, restarting or stopped.
        """
        check_request(request, self._ready_info())
        if self._suspects:
            self._suspects.check(request, self._streams.requests.values())
        stream = self._streams.add(request)
        self.num_requests += 1
        if request.sampling_params.grammar and not self._has_sent_token_bytes:
            self._send(Learn(self._read_token_bytes()))
            self._has_sent_token_bytes = True
        self._send(Add(request))
        return stream

    def check_room(self, prompts: Sequence[Sequence[int]], num_choices: int) -> None:
        """Whether these prompts can be sent together, so that not only the first of them come in.

        Args:
            prompts: token ids.
            num_choices: of each prompt.

        Raises:
            RequestRefusedError: there are more than there are places.
            QueueFullError: not now.
        """
        self._streams.check_room(prompts, num_choices)

    @property
    def open_request_ids(self) -> list[str]:
        """Requests whose stream has not ended."""
        return list(self._streams.requests)

    async def block_snapshot(self) -> BlockSnapshot:
        """Who holds which blocks, between two steps.

        Raises:
            EngineUnavailableError: the engine is loading, restarting or stopped, or it does not answer in time.
        """
        self._ready_info()
        return (await self._questions.ask(AskBlocks(), BlocksAnswer)).answer

    async def request_states(self, request_ids: Sequence[str]) -> list[RequestState]:
        """Those of these requests that have not ended, as they are between two steps.

        Raises:
            EngineUnavailableError: as in `block_snapshot`.
        """
        self._ready_info()
        return (await self._questions.ask(AskRequests(tuple(request_ids)), RequestsAnswer)).answer

    async def attention_maps(self, token_ids: Sequence[int], layers: Sequence[int]) -> list[bytes]:
        """The attention weights of a text in some layers, see engine.observing.packed_attention.

        It takes as long as a prefill of the text, between two steps; whoever asks bounds the length.

        Raises:
            EngineUnavailableError: as in `block_snapshot`, or it could not be computed.
        """
        self._ready_info()
        found = await self._questions.ask(AskAttention(tuple(token_ids), tuple(layers)), AttentionAnswer)
        if found.error is not None:
            raise EngineUnavailableError(found.error, retry_after_s=5.0)
        return found.answer

    async def shutdown(self) -> None:
        """End the process: running requests are aborted. Safe to call twice."""
        self._is_stopping = True
        self._send(Stop())
        if self._child is not None:
            # One that loads reads no message and has nothing to lose.
            is_listening = self.state is EngineState.READY
            await _wait_or_kill(self._child, STOP_TIMEOUT_S if is_listening else 0)
        if self._supervisor is not None:
            await self._supervisor

    def _ready_info(self) -> EngineInfo:
        """Raises EngineUnavailableError where there is no engine to talk to."""
        if self.state is not EngineState.READY or self.info is None:
            message = self.failure or f"the engine of model {self.model_name!r} is {self.state}"
            raise EngineUnavailableError(message, retry_after_s=5.0)
        return self.info

    async def _supervise(self) -> None:
        """Run the process; when it dies, say so to all streams, pause, and run it again."""
        pause_s = FIRST_PAUSE_S / 2  # doubled before the first use
        while True:
            self._ready_s = math.inf
            try:
                await self._run_once()
            except OSError:
                logger.exception("the engine process of %s could not be started", self.model_name)
            self._end_streams()
            if self._is_stopping or self.failure is not None:
                break
            self.num_restarts += 1
            self.state = EngineState.RESTARTING
            # One that was ready for longer than the pause is no process that dies again and again at its start.
            is_steady = time.monotonic() - self._ready_s > pause_s
            pause_s = FIRST_PAUSE_S if is_steady else min(2 * pause_s, LONGEST_PAUSE_S)
            logger.error("the engine of %s %s; it starts again in %.1f s", self.model_name, self._loss, pause_s)
            await asyncio.sleep(pause_s)
            if self._is_stopping:
                break
        self.state = EngineState.STOPPED
        self._known.set()

    async def _run_once(self) -> None:
        """One life of the process, from start to end."""
        self._has_sent_token_bytes = False
        folder = tempfile.mkdtemp(prefix="headcount-")  # mode 0700: nobody else can open the socket
        context = zmq.asyncio.Context()
        self._socket = context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            address = f"ipc://{folder}/engine"
            self._socket.bind(address)
            if self._child is None or self._child.return_code is not None:
                self._child = EngineChild()
            self._child.launch(Launch.of(address, str(self.folder), self.settings))
            await self._receive_until_exit(self._socket, self._child)
        finally:
            self._socket.close()
            self._socket = None
            context.term()
            shutil.rmtree(folder, ignore_errors=True)

    async def _receive_until_exit(self, socket: zmq.asyncio.Socket, child: EngineChild) -> None:
        self._loss = "died"
        receiver = asyncio.create_task(self._receive(socket))
        watcher = asyncio.create_task(self._watchdog.wait_for_hang())
        waiter = asyncio.create_task(child.wait())
        await asyncio.wait((receiver, watcher, waiter), return_when=asyncio.FIRST_COMPLETED)
        if receiver.done():
            logger.error("a message of the engine cannot be read: it is ended", exc_info=receiver.exception())
        if not waiter.done():
            self._give_up(child, "cannot be understood" if receiver.done() else "hung")
        await waiter
        await _cancel(receiver)
        await _cancel(watcher)
        while await socket.poll(LAST_WORDS_MS):
            await self._handle(await socket.recv())

    def _give_up(self, child: EngineChild, loss: str) -> None:
        """Kill a process that lives and is of no use. Its end may take a while: no request waits for it."""
        self._loss = loss
        self.state = EngineState.RESTARTING
        child.kill()
        self._end_streams()

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            await self._handle(await socket.recv())
            await asyncio.sleep(0)  # a message that is there already is received without a turn of the event loop

    async def _handle(self, data: bytes) -> None:
        match decode_from_engine(data):
            case StepResult(deltas, stats):
                if deltas or (stats is not None and stats.observations.step_seconds):
                    self._watchdog.step()
                await self._dispatch(deltas)
                if stats is not None:
                    self.stats = stats
                    if self.on_stats is not None:
                        self.on_stats(stats)
            case Ready(info):
                self.info, self.state, self._ready_s = info, EngineState.READY, time.monotonic()
                self._known.set()
            case BlocksAnswer() | RequestsAnswer() | AttentionAnswer() as answer:
                self._questions.settle(answer)
            case Failed(message):
                self.failure = message

    async def _dispatch(self, deltas: list[TokenDelta]) -> None:
        """Wake those who wait for these deltas, a few at a time: between them the event loop gets around to others."""
        try:
            while len(deltas) > DELTAS_AT_ONCE:
                self._hand_over(deltas[:DELTAS_AT_ONCE])
                deltas = deltas[DELTAS_AT_ONCE:]
                await asyncio.sleep(0)
        finally:
            self._hand_over(deltas)

    def _hand_over(self, deltas: list[TokenDelta]) -> None:
        for delta in deltas:
            ended = self._streams.put(delta)
            if ended is not None and delta.finish_reason in (FinishReason.STOP, FinishReason.LENGTH):
                self._suspects.ended_well(ended)

    def _has_work(self) -> bool:
        return self.state is EngineState.READY and len(self._streams) > 0

    def _end_streams(self) -> None:
        """The engine is gone: every open stream ends, with an error unless it was asked to stop."""
        self.stats = EngineStats()
        self._questions.give_up()
        requests = self._streams.requests
        if not self._is_stopping and requests:
            self._suspects.engine_died(requests.values())
        reason = FinishReason.ABORT if self._is_stopping else FinishReason.ERROR
        lost = f"the engine {self._loss} while it computed this request"
        error = "the server is shutting down" if self._is_stopping else lost
        for request_id in requests:
            self._streams.put(TokenDelta(request_id, finish_reason=reason, error=error, is_engine_lost=True))

    def _send(self, message: ToEngine) -> None:
        """Queue a message for the engine; never waits, and does nothing where there is no engine."""
        if self._socket is None:
            return
        future = asyncio.ensure_future(self._socket.send(encode(message)))
        self._sends.add(future)  # the event loop itself keeps only a weak reference
        future.add_done_callback(self._sends.discard)


async def _wait_or_kill(child: EngineChild, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(child.wait(), timeout_s)
    child.kill()
    await child.wait()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task
