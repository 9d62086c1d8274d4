"""Writes the tables of docs/performance.md from the files in benchmarks/results/.

    python -m benchmarks.performance_tables

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; a test holds page and files together.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"

Report = dict[str, Any]
Measured = list[dict[str, Any]]
Rows = Iterator[tuple[str, ...]]

KINDS = {"prefill_tokens_per_s": "prefill tok/s", "decode_tokens_per_s": "decode tok/s"}
HTTP_KINDS = {"output_tokens_per_s": "output tok/s", "ttft_p50_s": "TTFT s", "itl_p50_s": "ITL s"}


def main() -> None:
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def fill(page: str) -> str:
    """The page with every table made anew."""

    def replace(found: re.Match[str]) -> str:
        return f"<!-- begin {found[1]} -->\n{section(found[1])}\n<!-- end {found[1]} -->"

    return re.sub(r"<!-- begin ([\w-]+) -->\n.*?<!-- end \1 -->", replace, page, flags=re.DOTALL)


def section(name: str) -> str:
    """One table, with the command and the machine that its figures come from.

    Raises:
        KeyError: no table has this name.
    """
    file, field, make = TABLES[name]
    path = RESULTS / file
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if field not in report:
        return "\nNot measured yet.\n"
    header, *rows = make(report[field])
    lines = [_line(header), _line(["---", *["---:"] * (len(header) - 1)]), *map(_line, rows)]
    return f"\n{_source(report)}\n\n" + "\n".join(lines) + "\n"


def _source(report: Report) -> str:
    machine, when = report["machine"], report.get("time", report.get("date", ""))[:10]
    return f"`{report['command']}`, {when}, {machine['cores']} cores of {machine['cpu']}:"


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def throughput(rows: Measured) -> Rows:
    yield "figure", "batch", "headcount", "transformers", "ratio"
    for row in rows:
        for name, figure in row.items():
            if isinstance(figure, dict):
                kind = name.removesuffix("_tokens_per_s")
                values = (f"{figure['headcount']:.1f}", f"{figure['transformers']:.1f}", f"{figure['ratio']:.2f}")
                yield (f"{kind} tok/s", str(row["batch_size"]), *values)


def serving(rows: Measured) -> Rows:
    yield "streams", "output tok/s", "TTFT p50, s", "TTFT p99, s", "ITL p50, ms", "ITL p99, ms", "errors"
    for level in rows:
        ttft, itl = level["ttft_s"], level["itl_s"]
        latencies = (f"{ttft['p50']:.2f}", f"{ttft['p99']:.2f}", f"{1000 * itl['p50']:.1f}", f"{1000 * itl['p99']:.1f}")
        rate = f"{level['output_tokens_per_s']:.1f}"
        yield str(level["concurrency"]), rate, *latencies, str(level["num_errors"])


def peers(rows: Measured) -> Rows:
    """A row a batch, context and figure; a peer's cell has its figure and, in brackets, ours over it."""
    names = list(rows[0]["figures"])
    yield "figure", "batch", "context", *names
    for row in rows:
        for kind, title in KINDS.items():
            cells = (_cell(row, name, kind) for name in names)
            yield title, str(row["batch_size"]), f"{row['prompt_tokens']:,}", *cells


def peers_http(rows: Measured) -> Rows:
    """A row a number of streams and figure; see `peers`."""
    names = list(rows[0]["figures"])
    yield "figure", "streams", *names
    for row in rows:
        for kind, title in HTTP_KINDS.items():
            yield title, str(row["streams"]), *(_cell(row, name, kind) for name in names)


def _cell(row: dict[str, Any], name: str, kind: str) -> str:
    figure, ratio = row["figures"][name].get(kind), row["ratios"].get(name, {}).get(kind)
    if figure is None:
        return "skipped"
    text = f"{figure:,.3g}" if figure < 100 else f"{figure:,.0f}"
    return text if ratio is None else f"{text} ({ratio:.2f}x)"


def head_variants(rows: Measured) -> Rows:
    contexts = (f"ms at {point['context_tokens']:,}" for point in rows[0]["by_context"])
    yield "variant", "KV bytes a token", *contexts
    for variant in rows:
        times = (f"{1000 * point['step_s']['p50']:.1f}" for point in variant["by_context"])
        name = f"{variant['attention_type'].upper()}, {variant['num_kv_heads']} KV heads"
        yield name, f"{variant['kv_bytes_per_token']:,}", *times


def weight_quality(rows: Measured) -> Rows:
    yield "dtype", "weights", "bytes of weights", "perplexity", "top-1 agreement"
    for row in rows:
        is_whole = row["quantization"] == "none"
        weights = row["dtype"] if is_whole else row["quantization"]
        agreement = "" if is_whole else f"{row['top1_agreement']:.2%}"
        yield row["dtype"], weights, f"{row['weights_bytes']:,}", f"{row['perplexity']:.3f}", agreement


TABLES: dict[str, tuple[str, str, Callable[[Measured], Rows]]] = {
    "throughput": ("throughput.json", "rows", throughput),
    "serving": ("http.json", "levels", serving),
    "peers": ("peers.json", "in_process", peers),
    "peers-http": ("peers.json", "http", peers_http),
    "weight-quality": ("weight_quality.json", "rows", weight_quality),
    "head-variants": ("head_variants.json", "variants", head_variants),
}
"""Name in the page -> file in benchmarks/results, field of it, and what makes the table's header and rows of that."""


if __name__ == "__main__":
    main()
