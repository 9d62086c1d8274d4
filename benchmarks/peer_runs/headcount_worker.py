"""headcount's engine, step by step, as a worker: MODEL_FOLDER DTYPE QUANTIZATION NUM_THREADS."""

import gc
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.peer_runs.worker import Job, Result, serve
from configs.engine import EngineSettings
from configs.fields import with_overrides
from engine.core import EngineCore
from engine.loading import load_engine
from engine.request import Request, SamplingParams

KV_BYTES = 1 << 30


def main() -> None:
    folder, dtype, quantization, num_threads = sys.argv[1:]
    wanted = {"dtype": dtype, "device": "cpu", "num_threads": int(num_threads)}
    # A batch, as the peers run it: all prompts, then all tokens.
    wanted |= {"max_decode_slowdown": 1000.0}
    wanted |= {"kv_cache_memory_bytes": KV_BYTES, "enable_prefix_cache": False}
    wanted |= {"quantization": quantization} if quantization != "none" else {}
    core = load_engine(Path(folder), with_overrides(EngineSettings(), wanted, "the worker's arguments"))
    gc.freeze()  # as the engine's own process does when it has loaded
    serve({"headcount": version("headcount"), "torch": version("torch")}, lambda job: run(core, job))


def run(core: EngineCore, job: Job) -> Result:
    """Tokens that early prompts get while others are prefilled count as neither prefill nor decode."""
    outputs: dict[str, list[int]] = {str(i): [] for i in range(len(job.prompts))}
    params = SamplingParams(temperature=0, max_tokens=job.num_output_tokens, ignore_eos=True)
    for request_id, prompt in zip(outputs, job.prompts, strict=True):
        core.add(Request(request_id=request_id, prompt_token_ids=prompt, sampling_params=params))
    started_s = time.perf_counter()
    while not all(outputs.values()):
        _step(core, outputs)
    first_s, num_early = time.perf_counter(), _num_tokens(outputs)
    while core.has_requests:
        _step(core, outputs)
    ended_s = time.perf_counter()
    return Result(first_s - started_s, ended_s - first_s, _num_tokens(outputs) - num_early, list(outputs.values()))


def _step(core: EngineCore, outputs: dict[str, list[int]]) -> None:
    for delta in core.step():
        outputs[delta.request_id] += delta.token_ids


def _num_tokens(outputs: dict[str, list[int]]) -> int:
    return sum(map(len, outputs.values()))


if __name__ == "__main__":
    main()
