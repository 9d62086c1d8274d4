"""What joining key/value heads costs: the demo model with one key/value head a layer, made by each method.

    python -m benchmarks.heads_pooling --output benchmarks/results/heads_pooling.json

The text is that of benchmarks/kv_quality.py. Nothing is trained afterwards: these are the models that training would start
from, or the price of going without it.
"""

import argparse
import hashlib
import pydoc_data.topics
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from benchmarks.quality import TOPICS
from benchmarks.report import new_report, write_report
from checkpoints.resolve import resolve_model
from checkpoints.tokenizer_folder import load_tokenizer
from heads.convert import convert_heads
from heads.evaluation import WINDOW_TOKENS, Foretold, foretell, load_for_evaluation
from heads.texts import cut_windows
from server.cli.bench_report import VERSIONED
from server.cli.machine import versions_of

METHODS = ("mean", "first", "aligned")


def main() -> None:
    args = parse_arguments()
    source, console = resolve_model(args.model), Console()
    text = "\n\n".join(pydoc_data.topics.topics[name] for name in TOPICS)
    token_ids = load_tokenizer(source)[0].encode(text).ids[: args.num_tokens]
    windows = cut_windows(token_ids, WINDOW_TOKENS)
    before = foretell(load_for_evaluation(source), windows)
    rows = [{"method": "source"} | _quality(before, before)]
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        for method in METHODS:
            folder = Path(scratch) / method
            convert_heads(source, folder, args.kv_heads, method)
            rows.append({"method": method} | _quality(foretell(load_for_evaluation(folder), windows), before))
            console.print(rows[-1])
    report = new_report(
        "heads_pooling",
        versions=versions_of(VERSIONED),
        model=args.model,
        num_kv_heads=args.kv_heads,
        window_tokens=WINDOW_TOKENS,
        text={"topics": TOPICS, "sha256": hashlib.sha256(text.encode()).hexdigest(), "num_tokens": len(token_ids)},
        rows=rows,
    )
    write_report(report, args.output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--kv-heads", type=int, default=1)
    parser.add_argument("--num-tokens", type=int, default=4096, help="of the text, from its beginning")
    parser.add_argument("--scratch", type=Path, help="where the models are written meanwhile; needs their size")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def _quality(found: Foretold, source: Foretold) -> dict[str, Any]:
    return msgspec.structs.asdict(found.quality(source))


if __name__ == "__main__":
    main()
