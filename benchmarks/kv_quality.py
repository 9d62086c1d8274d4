"""What 8-bit keys and values cost in quality: perplexity, and how often the most likely token stays the same.

    python benchmarks/kv_quality.py --output benchmarks/results/kv_quality.json

The text is the Python language reference as it ships with every Python (`pydoc_data.topics`, PSF licence): English prose
about Python, with its examples. Its SHA-256 stands in the report, since Python's releases differ in it.

Every token of the text is predicted from those before it in its window, with the KV cache in one format after the other,
and compared with the first run in the same dtype. A bfloat16 model changes its mind for less than 8 bits: the run with
another set of kernels (PyTorch's, and nothing else different) is the noise floor. In float32 the rounding
of activations no longer hides what the cache does.
"""

import argparse
import hashlib
import json
import math
import platform
import pydoc_data.topics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from engine.request import TokenLogprobs
from headcount import LLM, SamplingParams

TOPICS = ("types", "compound", "specialnames", "typesseq", "formatstrings")
"""Those with the most prose, in this order."""


class Run(NamedTuple):
    """Settings of an engine."""

    dtype: str
    kv_cache_dtype: str = "auto"
    attention_backend: str = "auto"


RUNS = (
    Run("bfloat16"),
    Run("bfloat16", attention_backend="reference"),
    Run("bfloat16", kv_cache_dtype="int8"),
    Run("bfloat16", kv_cache_dtype="fp8_e4m3"),
    Run("float32"),
    Run("float32", kv_cache_dtype="int8"),
    Run("float32", kv_cache_dtype="fp8_e4m3"),
)
"""The first one of a dtype is what the others are compared with."""


def main() -> None:
    args = parse_arguments()
    text = "\n\n".join(pydoc_data.topics.topics[name] for name in TOPICS)
    rows: list[dict[str, Any]] = []
    baselines: dict[str, list[TokenLogprobs]] = {}
    for run in RUNS:
        row, entries = measure(run, text, args)
        rows.append(row | compare(entries, baselines.setdefault(run.dtype, entries)))
        print(json.dumps(rows[-1]), file=sys.stderr)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": {name: version(name) for name in ("torch", "headcount")} | {"cpu": platform.machine()},
        "text": {
            "topics": TOPICS,
            "python": platform.python_version(),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        },
        "settings": vars(args) | {"output": str(args.output)},
        "rows": rows,
    }
    Console().print(table(rows))
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--num-windows", type=int, default=6)
    parser.add_argument("--window-tokens", type=int, default=1536)
    parser.add_argument("--output", type=Path, default=None)
    return parser.parse_args()


def measure(run: Run, text: str, args: argparse.Namespace) -> tuple[dict[str, Any], list[TokenLogprobs]]:
    """Bytes a token, and what the model says of every token of the text but the first of each window."""
    llm = LLM(
        args.model,
        device="cpu",
        **run._asdict(),
        kv_cache_memory_bytes=1 << 28,
        max_num_seqs=1,
    )
    token_ids = llm.tokenizer.encode(text, add_special_tokens=False)
    num_tokens = args.num_windows * args.window_tokens
    if len(token_ids) < num_tokens:
        raise SystemExit(f"the text has {len(token_ids)} tokens, but {num_tokens} were asked for: lower --num-windows")
    windows = [token_ids[start : start + args.window_tokens] for start in range(0, num_tokens, args.window_tokens)]
    made = llm.generate(windows, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1), show_progress=False)
    row = {
        "dtype": llm.info.dtype,
        "kv_cache_dtype": llm.info.kv_cache_dtype,
        "wanted_backend": run.attention_backend,
        "attention_backend": llm.info.attention_backend,
        "bytes_per_token": llm.info.geometry.bytes_per_token,
    }
    return row, [entry for generation in made for entry in generation.prompt_logprobs]


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


def table(rows: list[dict[str, Any]]) -> Table:
    shown = ("dtype", "kv_cache_dtype", "wanted_backend", "bytes_per_token", "perplexity", "top1_agreement")
    result = Table(*(name.replace("_", " ") for name in shown))
    for row in rows:
        result.add_row(*(str(row[name]) for name in shown))
    return result


if __name__ == "__main__":
    main()
