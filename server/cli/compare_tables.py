"""The table of a comparison: a column a variant, readable at 80 columns."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from configs.sizes import format_bytes
from server.cli.bench_tables import new_table
from server.compare.report import Comparison, VariantReport

MAX_COLUMNS = 4
"""Variants of one table."""
MADE_BY = {"source": "itself", "repeat": "repeating"}
"""Method of a variant that joins no heads -> what the table says."""


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Tables of at most four variants, then what has to be known beside the numbers."""
    for start in range(0, len(comparison.variants), MAX_COLUMNS):
        console.print(_table(comparison, comparison.variants[start : start + MAX_COLUMNS]))
    for note in notes(comparison):
        console.print(note, markup=False)


def _table(comparison: Comparison, variants: list[VariantReport]) -> Table:
    settings = comparison.settings
    budget = format_bytes(settings["kv_cache_memory_bytes"])
    table = new_table(f"{comparison.checkpoint}: {budget} of KV cache for each variant")
    table.add_column("")
    for variant in variants:
        table.add_column(_heading(variant), justify="right", no_wrap=True)
    for label, *cells in zip(_labels(comparison), *map(_cells, variants), strict=True):
        table.add_row(label, *cells)
    return table


def _heading(variant: VariantReport) -> str:
    planned = variant.planned
    return f"{planned.attention_type.upper()}\n{planned.num_kv_heads} KV head{'s' * (planned.num_kv_heads != 1)}"


def _labels(comparison: Comparison) -> list[str]:
    return [
        "made by",
        "KV bytes a token",
        "tokens that fit",
        f"requests of {comparison.request_tokens} tokens: planned",
        "  reached, none preempted",
        "KV bytes read a decoded token",
        "decode tok/s, those together",
        "load: output tok/s",
        "  TTFT ms, p50",
        "  TTFT ms, p95",
        "  ITL ms, p50",
        "  ITL ms, p95",
        "  CPU seconds",
        "  preemptions",
        "the source's tokens",
    ]


def _cells(variant: VariantReport) -> list[str]:
    planned, load, tokens = variant.planned, variant.load, variant.tokens
    latencies = [1000 * found[name] for found in (load.ttft_s, load.itl_s) for name in ("p50", "p95")]
    return [
        MADE_BY.get(planned.method, planned.method),
        f"{planned.kv_bytes_per_token:,}",
        f"{planned.num_tokens:,}",
        f"{planned.num_requests:,}",
        f"{variant.num_requests_reached:,}",
        f"{variant.kv_read_bytes_per_token:,.0f}",
        f"{variant.decode_tokens_per_s:,.1f}",
        f"{load.output_tokens_per_s:,.1f}",
        *(f"{number:,.0f}" for number in latencies),
        f"{variant.load_cpu_s:,.0f}",
        f"{variant.num_preemptions:,}",
        "all" if tokens.is_equal else f"{tokens.equal_token_share:.0%}",
    ]


def notes(comparison: Comparison) -> Iterator[str]:
    """What a reader must know: the load, tokens that differ, and who else was there."""
    load = comparison.settings["workload"]
    yield (
        f"Load: {load['num_requests']} requests of {load['prompt_tokens']} prompt and {load['max_tokens']} output tokens,"
        f" {load['concurrency']} at a time."
    )
    for variant in comparison.variants:
        tokens = variant.tokens
        if not tokens.is_equal:
            yield (
                f"{variant.planned.title}: {tokens.num_requests - tokens.num_equal_requests} of {tokens.num_requests}"
                f" answers differ from the source's; {tokens.equal_token_share:.0%} of their tokens come before that."
                + (
                    ""
                    if tokens.is_expected
                    else " Its heads were joined: without further training it is another, worse model."
                )
            )
    if comparison.num_other_requests:
        yield f"The server took {comparison.num_other_requests} other requests meanwhile: speeds suffered from them."
    busy = comparison.load_average[1]
    yield f"Load average of the machine over five minutes: {busy:.1f} on {comparison.machine['cores']} cores."
