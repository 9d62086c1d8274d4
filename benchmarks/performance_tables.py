"""Writes the tables of docs/performance.md from the files in benchmarks/results/.

    python -m benchmarks.performance_tables

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; a test holds page and files together.
"""

import json
import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu_runs.targets import verdicts

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"

Report = dict[str, Any]
Measured = Any
"""The field of a report that a table is made of: rows, or a scenario."""
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
    table = TABLES[name]
    path = RESULTS / table.file
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = report.get(table.field, table.unmeasured)
    if not found:
        return "\nNot measured yet.\n"
    header, *rows = table.make(found)
    lines = [_line(header), _line(["---", *["---:"] * (len(header) - 1)]), *map(_line, rows)]
    source = f"{_source(report)}\n\n" if report else ""
    return f"\n{source}" + "\n".join(lines) + "\n"


def _source(report: Report) -> str:
    machine, when = report["machine"], report.get("time", report.get("date", ""))[:10]
    where = machine["device"] if "device" in machine else f"{machine['cores']} cores of {machine['cpu']}"
    if "cpu_kernels" in machine:
        where += f" ({machine['cpu_kernels']})"
    return f"`{report['command']}`, {when}, {where}:"


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


def linearity(rows: Measured) -> Rows:
    """Straight lines through the steps' medians, and how much of their differences these explain."""
    yield "variant", "ms a step", "+ ms a request", "r²", "ms a step", "+ ms per 1,000 tokens of each request", "r²"
    for variant in rows:
        name = f"{variant['attention_type'].upper()}, {variant['num_kv_heads']} KV heads"
        yield (
            name,
            *_line_through(variant["by_batch"], "batch_size", 1),
            *_line_through(variant["by_context"], "context_tokens", 1000),
        )


def _line_through(points: list[dict[str, Any]], field: str, unit: int) -> tuple[str, str, str]:
    xs, ys = [point[field] / unit for point in points], [1000 * point["step_s"]["p50"] for point in points]
    slope, intercept = statistics.linear_regression(xs, ys)
    return f"{intercept:.1f}", f"{slope:.2f}", f"{statistics.correlation(xs, ys) ** 2:.4f}"


def resident_memory(rows: Measured) -> Rows:
    yield "weights", "weights, MB", "KV pool, MB", "engine's resident memory, MB", "beside weights and pool, MB"
    for row in rows:
        fields = ("weights_bytes", "kv_cache_bytes", "resident_bytes", "beside_bytes")
        name = "bfloat16" if row["quantization"] == "none" else row["quantization"]
        yield name, *(f"{row[field] / 1e6:,.0f}" for field in fields)


def step_overhead(rows: Measured) -> Rows:
    yield "streams", "sampling", "step, ms", "not the model, ms", "share"
    for row in rows:
        share = f"{row['overhead_share']:.1%}"
        yield f"{row['streams']}", row["sampling"], f"{row['step_ms']:.1f}", f"{row['overhead_ms']:.2f}", share


def open_page(rows: Measured) -> Rows:
    yield "page", "requests a second", "tokens/s without", "tokens/s with it open", "ratio", "added to one core"
    for row in rows:
        rates = (f"{row[field]:.1f}" for field in ("tokens_per_s_without", "tokens_per_s_with"))
        ratio = f"{row['ratio']:.3f} ± {row['ratio_standard_error']:.3f}"
        added = f"{row['server_cpu_added']:.2%} ± {row['server_cpu_added_standard_error']:.2%}"
        yield row["page"], f"{row['requests_per_s']:g}", *rates, ratio, added


def weight_quality(rows: Measured) -> Rows:
    yield "dtype", "weights", "bytes of weights", "perplexity", "top-1 agreement"
    for row in rows:
        is_whole = row["quantization"] == "none"
        weights = row["dtype"] if is_whole else row["quantization"]
        agreement = "" if is_whole else f"{row['top1_agreement']:.2%}"
        yield row["dtype"], weights, f"{row['weights_bytes']:,}", f"{row['perplexity']:.3f}", agreement


def shared_prefix(found: Report) -> Rows:
    yield f"{found['requests']} requests, {found['prefix_tokens']:,} tokens in common", "with cache", "without", "ratio"
    for title, field in (
        ("one after the other", "median_ttft_s"),
        ("all but the first at once", "burst_median_ttft_s"),
    ):
        times = (f"{found[kind][field]:.3g} s" for kind in ("on", "off"))
        yield f"TTFT, median, {title}", *times, f"{found['on_to_off'][field]:.3f}"


def chat_turns(found: Report) -> Rows:
    yield "turn", "prompt tokens", "of those cached", "TTFT with cache, s", "TTFT without, s"
    on, off = found["on"], found["off"]
    columns = zip(on["prompt_tokens"], on["cached_tokens"], on["ttft_s"], off["ttft_s"], strict=True)
    for turn, (prompt, cached, with_cache, without) in enumerate(columns, 1):
        yield str(turn), f"{prompt:,}", f"{cached:,}", f"{with_cache:.2f}", f"{without:.2f}"


def long_prompt(found: Report) -> Rows:
    yield "prefill beside decodes", "worst gap over the median of all gaps", "TTFT of the long prompt, s"
    for title, kind in (("paced (the default)", "paced"), ("unpaced", "unpaced")):
        row = found["median_of_rounds"][kind]
        yield title, f"{row['worst_to_median_of_all']:.2f}", f"{row['long_ttft_s']:.1f}"


def gpu_targets(rows: Measured) -> Rows:
    """A row a target, whether it was measured or not."""
    yield "on one H200", "target", "measured", "holds"
    for row in rows:
        bound = f"at most {row['at_most']:,g}" if "at_most" in row else f"at least {row['at_least']:,g}"
        figure = "not yet measured" if row["figure"] is None else f"{row['figure']:,.4g}"
        yield row["says"], bound, figure, {True: "yes", False: "no"}.get(row.get("holds"), "")


class Table(NamedTuple):
    """Where a table's figures are.

    Attributes:
        file: in benchmarks/results.
        field: of it.
        make: what is there to the header and the rows.
        unmeasured: what stands for the field while there is no file.
    """

    file: str
    field: str
    make: Callable[[Measured], Rows]
    unmeasured: Measured | None = None


TABLES: dict[str, Table] = {
    "throughput": Table("throughput.json", "rows", throughput),
    "serving": Table("http.json", "levels", serving),
    "peers-amx": Table("peers_amx.json", "in_process", peers),
    "peers-amx-http": Table("peers_amx.json", "http", peers_http),
    "peers-avx512-bf16": Table("peers_avx512_bf16.json", "in_process", peers),
    "peers-avx512-bf16-http": Table("peers_avx512_bf16.json", "http", peers_http),
    "peers-avx2": Table("peers_avx2.json", "in_process", peers),
    "peers-avx2-http": Table("peers_avx2.json", "http", peers_http),
    "peers-avx512-vnni": Table("peers_avx512_vnni.json", "in_process", peers),
    "peers-avx512-vnni-http": Table("peers_avx512_vnni.json", "http", peers_http),
    "weight-quality": Table("weight_quality.json", "rows", weight_quality),
    "head-variants": Table("head_variants.json", "variants", head_variants),
    "linearity": Table("head_variants.json", "variants", linearity),
    "resident-memory": Table("resident_memory.json", "rows", resident_memory),
    "step-overhead": Table("step_overhead.json", "rows", step_overhead),
    "open-page": Table("open_page.json", "pages", open_page),
    "shared-prefix": Table("kv.json", "shared_prefix", shared_prefix),
    "chat-turns": Table("kv.json", "chat", chat_turns),
    "long-prompt": Table("kv_long_prompt.json", "long_prompt", long_prompt),
    "gpu": Table("gpu.json", "targets", gpu_targets, verdicts({})),
}
"""By their names in the page."""


if __name__ == "__main__":
    main()
