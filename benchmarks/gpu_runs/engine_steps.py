"""Whole steps of the Llama-3-8B shape: beside their floors, as MHA, GQA and MQA, and as they grow."""

import gc
from typing import Any

import torch

from benchmarks.gpu_runs import ceilings
from benchmarks.gpu_runs.models import LLAMA_3_8B, Config, kv_pool_bytes, make_engine, sized
from benchmarks.gpu_runs.steps import Decoding
from benchmarks.gpu_runs.timing import Device
from engine.core import EngineCore
from engine.models.registry import load_spec

BF16_BYTES = 2
NUM_STEPS, REHEARSED_STEPS = 64, 3
MHA_DEPTH = 20
"""Layers of the comparison of heads: at 32, 16 requests of 16k tokens would take 137 GB of keys and values as MHA."""


Size = tuple[int, int]
"""Requests, and tokens of context of each."""


def run_decode(device: Device) -> dict[str, Any]:
    """Batch 1 after a short prompt, and batch 256 after 1,024 tokens, beside the sum of its floors."""
    small = device.is_rehearsal
    config = sized(LLAMA_3_8B, device)
    largest, context = (4, 40) if small else (256, 1024)
    core = _engine(config, device, largest, context + 256)
    found = ceilings.run(device)
    points = [
        _point(core, config, device, found, (1, 16 if small else 128)),
        _point(core, config, device, found, (largest, context)),
    ]
    return {"ceilings": found, "points": points, "attention_backend": core.info.attention_backend}


def run_heads(device: Device) -> dict[str, Any]:
    """The comparison that this project exists for: one shape with 32, 8 and 1 key/value heads, by what their bytes predict."""
    batch_size, context = (2, 40) if device.is_rehearsal else (16, 16384)
    found, variants = ceilings.run(device), {}
    for name, num_kv_heads in (("mha", 32), ("gqa", 8), ("mqa", 1)):
        config = sized(LLAMA_3_8B, device, num_key_value_heads=num_kv_heads, num_hidden_layers=MHA_DEPTH)
        core = _engine(config, device, batch_size, context + 256)
        variants[name] = _point(core, config, device, found, (batch_size, context))
        del core
        _release(device)
    for point in variants.values():
        point["speed_up_over_mha"] = variants["mha"]["step_s"] / point["step_s"]
        point["speed_up_by_bytes"] = variants["mha"]["read_bytes"] / point["read_bytes"]
    return {"ceilings": found, "num_layers": config["num_hidden_layers"], "variants": variants}


def run_growth(device: Device) -> dict[str, Any]:
    """Step time against batch at one context, and against context at one batch, for 8 key/value heads and 1."""
    small = device.is_rehearsal
    batches, contexts = ([1, 2], [16, 40]) if small else ([1, 8, 16, 32, 64], [512, 2048, 8192])
    found, rows = ceilings.run(device), []
    for num_kv_heads in (8, 1):
        config = sized(LLAMA_3_8B, device, num_key_value_heads=num_kv_heads)
        core = _engine(config, device, max(batches), max(contexts) + 256)
        points = [(size, contexts[0]) for size in batches] + [(batches[1], length) for length in contexts[1:]]
        rows += [_point(core, config, device, found, point) | {"num_kv_heads": num_kv_heads} for point in points]
        del core
        _release(device)
    return {"ceilings": found, "points": rows}


def _engine(config: Config, device: Device, num_seqs: int, num_tokens: int) -> EngineCore:
    return make_engine(
        config,
        device,
        max_model_len=min(num_tokens, config["max_position_embeddings"]),
        max_num_seqs=num_seqs,
        max_num_batched_tokens=64 if device.is_rehearsal else 8192,
        kv_cache_memory_bytes=kv_pool_bytes(config, num_seqs, num_tokens),
    )


def _point(core: EngineCore, config: Config, device: Device, found: dict[str, float], size: Size) -> dict[str, Any]:
    """A decode step beside its floors: the time of its bytes at the rate of a copy, and of its products."""
    batch_size, context = size
    num_steps = REHEARSED_STEPS if device.is_rehearsal else NUM_STEPS
    decoding = Decoding(core, batch_size, context, 3 * num_steps, device)
    decoding.step_s(num_steps // 2)
    step_s, kv_bytes = decoding.step_s(num_steps), decoding.kv_bytes_per_step()
    idle = decoding.idle_share(num_steps // 4)
    decoding.close()
    num_read = load_spec(config).num_read_parameters(batch_size)
    read_bytes = num_read * BF16_BYTES + kv_bytes
    floor_s = read_bytes / found["copy_bytes_per_s"] + 2 * batch_size * num_read / found["bf16_flops_per_s"]
    return {
        "batch_size": batch_size,
        "context_tokens": context,
        "step_s": step_s,
        "tokens_per_s": batch_size / step_s,
        "read_bytes": read_bytes,
        "floor_s": floor_s,
        "share_of_floor": floor_s / step_s,
        "idle_share": idle,
    }


def _release(device: Device) -> None:
    """Give back what a model took, before the next one takes it."""
    gc.collect()
    if not device.is_rehearsal:
        torch.cuda.empty_cache()
