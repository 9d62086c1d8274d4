"""Requests of random lengths, all there at once: ours beside transformers' continuous batching, on the same weights."""

import random
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_runs.models import QWEN3_0_6B, Config, kv_pool_bytes, make_engine, sized
from benchmarks.gpu_runs.steps import random_jobs, run_all
from benchmarks.gpu_runs.timing import Device
from engine.core import EngineCore

NUM_REQUESTS, SHORTEST, LONGEST = 256, 100, 1024
NUM_BESIDE_TRANSFORMERS = 64
"""It takes minutes for all of them."""


def run_throughput(device: Device) -> dict[str, Any]:
    """256 requests of 100 to 1,024 tokens in and as many out (seed 0) of the Qwen3-0.6B shape."""
    config = sized(QWEN3_0_6B, device)
    wanted = lengths(device, NUM_REQUESTS)
    core = _engine(config, device, len(wanted))
    run_all(core, random_jobs(core, wanted[:2]), device)
    return _report(wanted, run_all(core, random_jobs(core, wanted), device))


def run_beside_transformers(device: Device) -> dict[str, Any]:
    """A quarter of the same requests, for both, one after the other."""
    config = sized(QWEN3_0_6B, device)
    wanted = lengths(device, NUM_BESIDE_TRANSFORMERS)
    core = _engine(config, device, len(wanted))
    jobs = random_jobs(core, wanted)
    run_all(core, jobs[:2], device)
    ours = _report(wanted, run_all(core, jobs, device))
    del core
    theirs = _report(wanted, _transformers_s(config, device, [job.prompt for job in jobs], [n for _, n in wanted]))
    ratio = ours["output_tokens_per_s"] / theirs["output_tokens_per_s"]
    return {"headcount": ours, "transformers": theirs, "ratio": ratio}


def lengths(device: Device, count: int) -> list[tuple[int, int]]:
    """Tokens in and out of each request."""
    if device.is_rehearsal:
        return [(8, 4), (20, 3), (5, 6)]
    draw = random.Random(0)
    return [(draw.randint(SHORTEST, LONGEST), draw.randint(SHORTEST, LONGEST)) for _ in range(count)]


def _engine(config: Config, device: Device, num_seqs: int) -> EngineCore:
    longest = min(2 * LONGEST, config["max_position_embeddings"])
    return make_engine(
        config,
        device,
        max_model_len=longest,
        max_num_seqs=num_seqs,
        max_num_batched_tokens=64 if device.is_rehearsal else 16384,
        kv_cache_memory_bytes=kv_pool_bytes(config, num_seqs, longest),
    )


def _report(wanted: list[tuple[int, int]], seconds: float) -> dict[str, Any]:
    num_output = sum(output for _, output in wanted)
    return {
        "num_requests": len(wanted),
        "num_prompt_tokens": sum(prompt for prompt, _ in wanted),
        "num_output_tokens": num_output,
        "seconds": seconds,
        "output_tokens_per_s": num_output / seconds,
    }


def _transformers_s(config: Config, device: Device, prompts: list[list[int]], num_outputs: list[int]) -> float:
    """Seconds of transformers' continuous batching; every request gets as many tokens as the longest, cut by its own limit."""
    import transformers  # noqa: PLC0415  slow to import, and only this needs it

    known = {name: value for name, value in config.items() if name not in ("architectures", "model_type")}
    attention = "sdpa" if device.is_rehearsal else "paged|sdpa"
    with torch.device(device.torch):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.Qwen3Config(**known), dtype=torch.bfloat16, attn_implementation=attention
        )
    model = model.eval()
    if device.is_rehearsal:
        return _one_by_one_s(model, prompts, num_outputs)
    settings = transformers.GenerationConfig(
        max_new_tokens=max(num_outputs), do_sample=False, eos_token_id=-1, pad_token_id=0, use_cache=True
    )
    manager = model.init_continuous_batching(generation_config=settings)
    manager.start()
    started_s = time.perf_counter()
    for prompt, num_output in zip(prompts, num_outputs, strict=True):
        manager.add_request(prompt, max_new_tokens=num_output)
    ended = 0
    while ended < len(prompts):
        result = manager.get_result(timeout=1)
        ended += int(result is not None and result.is_finished())
        if not manager.is_running():
            raise RuntimeError(f"transformers' continuous batching ended after {ended} of {len(prompts)} requests")
    seconds = time.perf_counter() - started_s
    manager.stop(block=True)
    return seconds


def _one_by_one_s(model: Any, prompts: list[list[int]], num_outputs: list[int]) -> float:
    """For a rehearsal: its continuous batching needs a GPU."""
    started_s = time.perf_counter()
    for prompt, num_output in zip(prompts, num_outputs, strict=True):
        ids: Tensor = torch.tensor([prompt])
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_output, do_sample=False, pad_token_id=0
        )
    return time.perf_counter() - started_s
