"""The engine in a process of its own: `python -m engine.process`, started by engine.client.

One thread does everything, so that nothing in the engine needs a lock: read what has come, compute a step, send what it
gave. A request that is aborted while a step runs ends before the next one.
"""

import gc
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec
import torch
import zmq

from checkpoints.errors import CheckpointError
from engine.core import EngineCore
from engine.errors import EngineError
from engine.loading import load_engine
from engine.messages import (
    Abort,
    Add,
    AskAttention,
    AskBlocks,
    AskRequests,
    AttentionAnswer,
    BlocksAnswer,
    Failed,
    FromEngine,
    Launch,
    Learn,
    Ready,
    RequestsAnswer,
    StepResult,
    Stop,
    decode_to_engine,
    encode,
)
from engine.request import TokenDelta

logger = logging.getLogger("headcount.engine")

IDLE_POLL_MS = 1000
STATS_INTERVAL_S = 0.1


class EngineProcess:
    """Connects an engine core to its socket.

    Args:
        core: the loaded engine.
        socket: a PAIR socket, connected to the client's.
    """

    def __init__(self, core: EngineCore, socket: zmq.Socket[bytes]) -> None:
        self._core = core
        self._socket = socket
        self._is_stopping = False
        self._stats_time_s = 0.0

    def run(self) -> None:
        """Work until a Stop message."""
        while True:
            self._read()
            if self._is_stopping:
                return
            deltas = self._step()
            now_s = time.monotonic()
            is_due = not self._core.has_requests or now_s - self._stats_time_s >= STATS_INTERVAL_S
            if is_due:
                self._stats_time_s = now_s
            if deltas or is_due:
                self._send(StepResult(deltas, self._core.take_stats() if is_due else None))

    def _step(self) -> list[TokenDelta]:
        try:
            return self._core.step()
        except Exception as error:
            logger.exception("a step failed; the request that it fails at ends with an error")
            return self._core.fail_step(_what_failed(error))

    def _read(self) -> None:
        """Handle all messages that have come; while there is nothing to compute, wait for one."""
        timeout_ms = 0 if self._core.has_requests else IDLE_POLL_MS
        while self._socket.poll(timeout_ms):
            timeout_ms = 0
            match decode_to_engine(self._socket.recv()):
                case Add(request):
                    self._core.add(request)
                case Abort(request_id):
                    self._core.abort(request_id)
                case Learn(token_bytes):
                    self._core.learn(token_bytes)
                case AskBlocks() as question:
                    self._send(BlocksAnswer(question, self._core.block_snapshot()))
                case AskRequests(request_ids) as question:
                    self._send(RequestsAnswer(question, self._core.request_states(request_ids)))
                case AskAttention() as question:
                    self._send(self._look_at_attention(question))
                case Stop():
                    self._is_stopping = True

    def _look_at_attention(self, question: AskAttention) -> AttentionAnswer:
        """Compute it now, between two steps; where that fails, only this question does."""
        try:
            return AttentionAnswer(question, self._core.attention_maps(question.token_ids, question.layers))
        except Exception as error:
            logger.exception("attention could not be computed")
            return AttentionAnswer(question, error=_what_failed(error))

    def _send(self, message: FromEngine) -> None:
        self._socket.send(encode(message))


def main() -> None:
    """Read the launch line, load, report, work."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    # A Ctrl-C in the terminal reaches the whole process group, and so does its end: the server drains first and then
    # sends Stop.
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the server has ended before it knew what to load
    launch = msgspec.json.decode(line, type=Launch)
    threading.Thread(target=_end_with_server, daemon=True).start()
    context = zmq.Context()
    socket: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.LINGER, 1000)
    socket.connect(launch.address)
    try:
        core = load_engine(Path(launch.folder), launch.settings())
    except (EngineError, CheckpointError) as error:
        socket.send(encode(Failed(str(error))))
    else:
        gc.freeze()  # what was loaded stays: no collection has to look at it again, between two steps
        socket.send(encode(Ready(core.info)))
        EngineProcess(core, socket).run()
    socket.close()
    context.term()


def _what_failed(error: Exception) -> str:
    """What clients are told; the rest is in the log."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "the engine ran out of memory while it computed this request; send it again, alone or with fewer tokens"
    return "the engine failed while it computed this request"


def _end_with_server() -> None:
    """The server holds the other end of standard input: when it is gone, so is the reason to go on."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
