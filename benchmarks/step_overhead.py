"""How much of a decode step is not the model: scheduling, building the batch, drawing tokens, booking, messages.

    python -m benchmarks.step_overhead --output benchmarks/results/step_overhead.json

The engine's own loop runs in this process with a socket on either side, so that what it sends to a server is encoded and
sent. The time inside the decoder and its head is taken; the rest of the time from one step's end to the next is overhead.
"""

import argparse
import functools
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import zmq
from rich.console import Console

from benchmarks.report import new_report, write_report
from checkpoints.resolve import resolve_model
from configs.engine import EngineSettings
from configs.fields import with_overrides
from engine.core import EngineCore
from engine.layers.head import Head
from engine.loading import load_engine
from engine.messages import Stop, encode
from engine.models.decoder import Decoder
from engine.process import EngineProcess
from engine.request import Request, SamplingParams

PROMPT_TOKENS, OUTPUT_TOKENS = 128, 128
SAMPLING = {
    "greedy": SamplingParams(temperature=0, max_tokens=OUTPUT_TOKENS, ignore_eos=True),
    "top-p": SamplingParams(temperature=0.8, top_p=0.95, max_tokens=OUTPUT_TOKENS, ignore_eos=True),
}


class StepEnd(NamedTuple):
    """When a step ended.

    Attributes:
        at_s: the time.
        model_s: spent in the model until then, in all.
        num_tokens: that the step computed.
    """

    at_s: float
    model_s: float
    num_tokens: int


class Watch:
    """Times the model and notes the ends of steps, from when it is made."""

    def __init__(self) -> None:
        self.ends: list[StepEnd] = []
        self._model_s, self._num_tokens = 0.0, 0
        Decoder.__call__ = self._timed(Decoder.__call__)  # type: ignore[method-assign]
        Head.__call__ = self._timed(Head.__call__)  # type: ignore[method-assign]
        step = EngineCore.step

        def noted(core: EngineCore) -> Any:
            found = step(core)
            self.ends.append(StepEnd(time.perf_counter(), self._model_s, self._num_tokens))
            return found

        EngineCore.step = noted  # type: ignore[method-assign]

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(model: Any, first: Any, *others: Any) -> Any:
            if isinstance(model, Decoder):
                self._num_tokens = len(first.input_ids)
            started_s = time.perf_counter()
            try:
                return call(model, first, *others)
            finally:
                self._model_s += time.perf_counter() - started_s

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    wanted = {"device": "cpu", "enable_prefix_cache": False, "max_decode_slowdown": 1000.0}
    core = load_engine(resolve_model("demo"), with_overrides(EngineSettings(), wanted, "the benchmark"))
    watch = Watch()
    rows = [measure(core, watch, streams, name) for streams in args.streams for name in SAMPLING]
    Console().print(*rows, sep="\n")
    write_report(new_report("step_overhead", rows=rows), args.output)


def measure(core: EngineCore, watch: Watch, streams: int, sampling: str) -> dict[str, Any]:
    """All decode steps in which every stream takes part."""
    draw = random.Random(0)
    for number in range(streams):
        prompt = draw.choices(range(100, 40_000), k=PROMPT_TOKENS)
        core.add(Request(request_id=str(number), prompt_token_ids=prompt, sampling_params=SAMPLING[sampling]))
    watch.ends.clear()
    run_until_idle(core)
    pairs = [
        (before, after)
        for before, after in zip(watch.ends, watch.ends[1:], strict=False)
        if before.num_tokens == after.num_tokens == streams
    ]
    step_s = sum(after.at_s - before.at_s for before, after in pairs)
    model_s = sum(after.model_s - before.model_s for before, after in pairs)
    return {
        "streams": streams,
        "sampling": sampling,
        "steps": len(pairs),
        "step_ms": round(1000 * step_s / len(pairs), 3),
        "overhead_ms": round(1000 * (step_s - model_s) / len(pairs), 3),
        "overhead_share": round(1 - model_s / step_s, 4),
    }


def run_until_idle(core: EngineCore) -> None:
    """The engine's loop, whose messages somebody takes and drops."""
    context = zmq.Context()
    ours, theirs = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    ours.bind("inproc://engine")
    theirs.connect("inproc://engine")

    def take() -> None:
        while core.has_requests or theirs.poll(0):
            if theirs.poll(100):
                theirs.recv()
        theirs.send(encode(Stop()))

    taker = threading.Thread(target=take)
    taker.start()
    EngineProcess(core, ours).run()
    taker.join()
    ours.close()
    theirs.close()
    context.term()


if __name__ == "__main__":
    main()
