"""Step time of the demo model as MHA, GQA and MQA, by batch size and by context.

    python -m benchmarks.head_variants --output benchmarks/results/head_variants.json
    python -m benchmarks.plots benchmarks/results/head_variants.json --output-dir docs/images

The demo has 9 query heads on 3 key/value heads. Repeating each of those three times gives an MHA model with the same
outputs and three times the cache; their mean gives an MQA model, whose outputs are others. Query heads, MLPs and
vocabulary stay: what differs is the KV cache, and the small projections that fill it.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from benchmarks.report import new_report, write_report
from checkpoints.resolve import resolve_model
from heads.convert import convert_heads
from server.cli.bench_offline import SweepPoint, load_for_sweep, measure_point
from server.cli.bench_sweep import SweepOptions

NUM_KV_HEADS = (9, 3, 1)


def main() -> None:
    args = parse_arguments()
    console, variants, ceilings = Console(), [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for num_kv_heads in NUM_KV_HEADS:
            folder = Path(scratch) / str(num_kv_heads)
            convert_heads(resolve_model("demo"), folder, num_kv_heads)
            console.print(f"{num_kv_heads} key/value heads")
            variant, ceilings = measure(folder, args)
            variants.append({"num_kv_heads": num_kv_heads} | variant)
    write_report(
        new_report(
            "head_variants",
            ceilings=ceilings,
            short_context=args.short_context,
            batch_size=args.batch_size,
            variants=variants,
        ),
        args.output,
    )


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
