"""Step time of the demo model as MHA, GQA and MQA, by batch size and by context.

    python -m benchmarks.head_variants --output benchmarks/results/head_variants.json
    python -m benchmarks.plots benchmarks/results/head_variants.json --output-dir docs/images

The demo has 9 query heads on 3 key/value heads. Repeating each of those three times gives an MHA model with the same
outputs and three times the cache; their mean gives an MQA model, whose outputs are others. Query heads, MLPs and
vocabulary stay: what differs is the KV cache, and the small projections that fill it.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from checkpoints.headers import WEIGHTS_FILE, read_config
from checkpoints.resolve import resolve_model
from server.cli.bench_offline import SweepPoint, load_for_sweep, measure_point
from server.cli.bench_sweep import SweepOptions
from server.cli.machine import machine_facts

NUM_KV_HEADS = (9, 3, 1)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def main() -> None:
    args = parse_arguments()
    console, variants, ceilings = Console(), [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for num_kv_heads in NUM_KV_HEADS:
            folder = write_variant(resolve_model("demo"), Path(scratch) / str(num_kv_heads), num_kv_heads)
            console.print(f"{num_kv_heads} key/value heads")
            variant, ceilings = measure(folder, args)
            variants.append({"num_kv_heads": num_kv_heads} | variant)
    report = {
        "command": shlex.join(["python", "-m", "benchmarks.head_variants", *sys.argv[1:]]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine_facts(),
        "load_average": os.getloadavg(),
        "ceilings": ceilings,
        "short_context": args.short_context,
        "batch_size": args.batch_size,
        "variants": variants,
    }
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--short-context", type=int, default=128, help="of the sweep over batch sizes")
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 1024, 2048, 4096, 8000])
    parser.add_argument("--batch-size", type=int, default=4, help="of the sweep over contexts")
    parser.add_argument("--decode-steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def write_variant(source: Path, folder: Path, num_kv_heads: int) -> Path:
    """The checkpoint in `source` with another number of key/value heads, as a checkpoint in `folder`."""
    folder.mkdir(parents=True)
    config = read_config(source)
    had = config["num_key_value_heads"]
    tensors = {
        name: with_kv_heads(tensor, had, num_kv_heads) if "k_proj" in name or "v_proj" in name else tensor
        for name, tensor in load_file(source / WEIGHTS_FILE).items()
    }
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "num_key_value_heads": num_kv_heads}))
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    return folder


def with_kv_heads(weight: torch.Tensor, had: int, num_kv_heads: int) -> torch.Tensor:
    """[had * head_dim, hidden_size] -> [num_kv_heads * head_dim, hidden_size]: heads repeated, kept, or their means.

    Raises:
        ValueError: neither number divides the other.
    """
    heads = weight.unflatten(0, (had, -1))
    if num_kv_heads % had == 0:
        return heads.repeat_interleave(num_kv_heads // had, dim=0).flatten(0, 1).contiguous()
    if had % num_kv_heads == 0:
        return heads.float().unflatten(0, (num_kv_heads, -1)).mean(1).flatten(0, 1).to(weight.dtype)
    raise ValueError(f"{had} heads can be neither repeated nor pooled to {num_kv_heads}")


def measure(folder: Path, args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """Both sweeps, each with the model loaded anew: the KV pool of neither holds the other's largest batch."""
    common = {"decode_steps": args.decode_steps, "rounds": args.rounds}
    by_batch = SweepOptions(batch_sizes=args.batch_sizes, contexts=args.short_context, **common)
    by_context = SweepOptions(batch_sizes=args.batch_size, contexts=args.contexts, **common)
    subject = load_for_sweep(str(folder), by_batch)
    found = {
        "attention_type": str(subject.llm.info.geometry.attention_type),
        "kv_bytes_per_token": subject.llm.info.geometry.bytes_per_token,
        "by_batch": [
            _plain(measure_point(subject, size, args.short_context, by_batch)) for size in by_batch.batch_sizes
        ],
    }
    ceilings = msgspec.structs.asdict(subject.ceilings)
    del subject
    subject = load_for_sweep(str(folder), by_context)
    found["by_context"] = [
        _plain(measure_point(subject, args.batch_size, context, by_context)) for context in by_context.contexts
    ]
    return found, ceilings


def _plain(point: SweepPoint) -> dict[str, Any]:
    return msgspec.structs.asdict(point)


if __name__ == "__main__":
    main()
