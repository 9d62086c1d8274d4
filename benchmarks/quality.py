"""What a number format costs in quality: every token of a text predicted from those before it, in one engine after another.

The text is the Python language reference as it ships with every Python (`pydoc_data.topics`, PSF licence): English prose
about Python, with its examples. Its SHA-256 stands in the report, since Python's releases differ in it.
"""

import argparse
import hashlib
import json
import math
import platform
import pydoc_data.topics
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.request import TokenLogprobs
from headcount import LLM, SamplingParams
from server.cli.machine import machine_facts, versions_of

TOPICS = ("types", "compound", "specialnames", "typesseq", "formatstrings")
"""Those with the most prose, in this order."""


def parse_arguments(description: str | None) -> argparse.Namespace:
    """The arguments that every measurement of quality has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--num-windows", type=int, default=6)
    parser.add_argument("--window-tokens", type=int, default=1536)
    parser.add_argument("--output", type=Path, default=None)
    return parser.parse_args()


def read_text() -> str:
    """The text."""
    return "\n\n".join(pydoc_data.topics.topics[name] for name in TOPICS)


def predict(llm: LLM, args: argparse.Namespace) -> list[TokenLogprobs]:
    """What the model says of every token of the text but the first of each window.

    Raises:
        SystemExit: the text is shorter than that.
    """
    token_ids = llm.tokenizer.encode(read_text(), add_special_tokens=False)
    num_tokens = args.num_windows * args.window_tokens
    if len(token_ids) < num_tokens:
        raise SystemExit(f"the text has {len(token_ids)} tokens, but {num_tokens} were asked for: lower --num-windows")
    windows = [token_ids[start : start + args.window_tokens] for start in range(0, num_tokens, args.window_tokens)]
    made = llm.generate(windows, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1), show_progress=False)
    return [entry for generation in made for entry in generation.prompt_logprobs]


def compare(entries: list[TokenLogprobs], baseline: list[TokenLogprobs]) -> dict[str, Any]:
    """Perplexity, and the agreement with the baseline."""
    pairs = list(zip(entries, baseline, strict=True))
    mean = sum(entry.logprob for entry in entries) / len(entries)
    same = sum(ours.top_token_ids[0] == theirs.top_token_ids[0] for ours, theirs in pairs)
    shift = sum(abs(ours.logprob - theirs.logprob) for ours, theirs in pairs)
    return {
        "num_predictions": len(entries),
        "perplexity": round(math.exp(-mean), 6),
        "top1_agreement": round(same / len(pairs), 6),
        "mean_logprob_change": round(shift / len(pairs), 6),
    }


def run_all(
    description: str | None,
    runs: Sequence[Any],
    measure: Callable[[Any, argparse.Namespace], tuple[dict[str, Any], list[TokenLogprobs]]],
    columns: tuple[str, ...],
) -> None:
    """Measure every run, and show and write what was found.

    Args:
        description: of the command.
        runs: each with a dtype; the first one of a dtype is what the others are compared with.
        measure: a run's facts, and what its model says of the text.
        columns: to show.
    """
    args = parse_arguments(description)
    rows: list[dict[str, Any]] = []
    baselines: dict[str, list[TokenLogprobs]] = {}
    for run in runs:
        row, entries = measure(run, args)
        rows.append(row | compare(entries, baselines.setdefault(run.dtype, entries)))
        print(json.dumps(rows[-1]), file=sys.stderr)
    Console().print(table(rows, columns))
    if args.output:
        args.output.write_text(json.dumps(make_report(args, rows), indent=2) + "\n")


def make_report(args: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows, and what is needed to measure them again."""
    return {
        "command": shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine_facts() | versions_of(("torch", "headcount")),
        "text": {
            "topics": TOPICS,
            "python": platform.python_version(),
            "sha256": hashlib.sha256(read_text().encode()).hexdigest(),
        },
        "settings": vars(args) | {"output": str(args.output)},
        "rows": rows,
    }


def table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    """Some columns of the rows, for people."""
    result = Table(*(name.replace("_", " ") for name in columns))
    for row in rows:
        result.add_row(*(str(row[name]) for name in columns))
    return result
