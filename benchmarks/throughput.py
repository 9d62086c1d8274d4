"""Decode and prefill speed of headcount's engine beside transformers' generate: same weights, same prompts, same run.

    python benchmarks/throughput.py --output benchmarks/results/throughput.json

Rounds alternate between the two, so that a machine that slows down slows both; the ratio is of their medians.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from checkpoints.resolve import resolve_model
from configs.cache import CacheSettings
from configs.engine import EngineSettings
from configs.model import ModelSettings
from configs.scheduler import SchedulerSettings
from engine.core import EngineCore
from engine.loading import load_engine
from engine.request import Request, SamplingParams

KV_BYTES = 1 << 29


def main() -> None:
    args = parse_arguments()
    folder = resolve_model(args.model)
    core = load_engine(
        folder,
        EngineSettings(
            model_settings=ModelSettings(dtype=args.dtype, device="cpu"),
            cache=CacheSettings(kv_cache_memory_bytes=KV_BYTES, enable_prefix_cache=False),
            scheduler=SchedulerSettings(max_decode_slowdown=1000.0),  # a batch: nobody streams
        ),
    )
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, args.dtype)).eval()
    rows = [measure(core, peer, batch_size, args) for batch_size in args.batch_sizes]
    report = {"command": " ".join(["python", *sys.argv]), "date": time.strftime("%Y-%m-%d"), "machine": machine()}
    report |= {"settings": vars(args) | {"output": str(args.output)}, "rows": rows}
    Console().print(table(rows))
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None)
    return parser.parse_args()


def measure(core: EngineCore, peer: Any, batch_size: int, args: argparse.Namespace) -> dict[str, Any]:
    """Median tokens per second of both, after one round that does not count."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(100, core.info.vocab_size - 100, (batch_size, args.prompt_tokens), generator=generator)
    ours, theirs = [], []
    for _ in range(args.rounds + 1):
        ours.append(run_headcount(core, prompts.tolist(), args.output_tokens))
        theirs.append(run_transformers(peer, prompts, args.output_tokens))
    return {"batch_size": batch_size} | compare(ours[1:], theirs[1:])


def compare(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for figure in ours[0]:
        mine = statistics.median(run[figure] for run in ours)
        peer = statistics.median(run[figure] for run in theirs)
        row[figure] = {"headcount": round(mine, 1), "transformers": round(peer, 1), "ratio": round(mine / peer, 2)}
    return row


def run_headcount(core: EngineCore, prompts: list[list[int]], num_tokens: int) -> dict[str, float]:
    """Tokens per second from the first step to the last, of the prefill alone, and of the decode alone."""
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    for i, prompt in enumerate(prompts):
        core.add(Request(request_id=str(i), prompt_token_ids=prompt, sampling_params=params))
    num_out, start_s, first_s = 0, time.perf_counter(), 0.0
    while core.has_requests:
        num_out += sum(len(delta.token_ids) for delta in core.step())
        if not first_s and num_out >= len(prompts):
            first_s = time.perf_counter() - start_s
    return figures(prompts, num_tokens, first_s, time.perf_counter() - start_s)


def run_transformers(peer: Any, prompts: torch.Tensor, num_tokens: int) -> dict[str, float]:
    """The same; the first token alone is timed in a call of its own."""
    first_s = time_generate(peer, prompts, 1)
    return figures(prompts.tolist(), num_tokens, first_s, time_generate(peer, prompts, num_tokens))


def time_generate(peer: Any, prompts: torch.Tensor, num_tokens: int) -> float:
    start_s = time.perf_counter()
    with torch.inference_mode():
        peer.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return time.perf_counter() - start_s


def figures(prompts: list[list[int]], num_tokens: int, first_s: float, total_s: float) -> dict[str, float]:
    return {
        "generate_tokens_per_s": len(prompts) * num_tokens / total_s,
        "decode_tokens_per_s": len(prompts) * (num_tokens - 1) / (total_s - first_s),
        "prefill_tokens_per_s": len(prompts) * len(prompts[0]) / first_s,
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **{name: version(name) for name in ("torch", "transformers", "headcount")},
    }


def table(rows: list[dict[str, Any]]) -> Table:
    result = Table("batch", "figure", "headcount", "transformers", "ratio", title="tokens per second")
    for row in rows:
        for name, figure in row.items():
            if isinstance(figure, dict):
                cells = (f"{figure[peer]:.1f}" for peer in ("headcount", "transformers"))
                result.add_row(str(row["batch_size"]), name, *cells, f"{figure['ratio']:.2f}x")
    return result


if __name__ == "__main__":
    main()
