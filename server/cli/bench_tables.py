"""Tables of a bench for people, on standard output."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from server.cli.bench_offline import OfflineReport
from server.cli.bench_report import Report
from server.load.summary import QUANTILES, LevelReport

LATENCIES = {"TTFT": "ttft_s", "ITL": "itl_s", "TPOT": "tpot_s", "E2E": "e2e_s"}


def print_report(report: Report) -> None:
    """Throughput, goodput where there is an SLO, latencies, and every kind of error with its number."""
    console = Console(highlight=False)
    console.print(_throughput(report))
    console.print(_latencies(report.levels))
    for level in report.levels:
        for message, count in level.errors.items():
            console.print(f"{count} errors at {level.title}: {message}", style="red", markup=False)


def _throughput(report: Report) -> Table:
    load, has_slo = report.load, report.load["slo"] is not None
    lengths = str(load["prompt_tokens"])
    if load["min_prompt_tokens"]:
        lengths = f"{load['min_prompt_tokens']} to {lengths}"
    table = new_table(f"{report.model['id']}: {lengths} prompt tokens, {load['max_tokens']} output tokens")
    headings = ["load", "requests", "errors", "most\nat once", "output\ntok/s", "requests\n/s"]
    for heading in [*headings, *(["met\nthe SLO", "goodput\nrequests/s"] if has_slo else [])]:
        table.add_column(heading, justify="right", no_wrap=True)
    for level in report.levels:
        counts = (level.num_requests, level.num_errors, level.most_at_once)
        goodput = (f"{level.goodput.share:.1%}", f"{level.goodput.requests_per_s:.2f}") if level.goodput else ()
        cells = [level.title, *map(str, counts), f"{level.output_tokens_per_s:,.1f}", f"{level.requests_per_s:.2f}"]
        table.add_row(*cells, *goodput)
    return table


def _latencies(levels: list[LevelReport]) -> Table:
    table = new_table("milliseconds, of the requests that ended well")
    table.add_column("load", justify="right", no_wrap=True)
    table.add_column("")
    for name in QUANTILES:
        table.add_column(name, justify="right", no_wrap=True)
    for level in levels:
        for kind, field in LATENCIES.items():
            title = level.title if kind == "TTFT" else ""
            table.add_row(title, kind, *_milliseconds(getattr(level, field)), end_section=kind == "E2E")
    return table


def print_offline(report: OfflineReport) -> None:
    """Prefill and decode by batch size and context, beside what the machine's memory gives."""
    console, ceilings = Console(highlight=False), report.ceilings
    table = new_table(
        f"{report.model['name']} in {report.model['dtype']}, {report.model['attention_backend']} attention"
    )
    headings = ["batch", "context", "prefill\ntok/s", "decode\ntok/s", "step\nms", "MB read\n/token"]
    for heading in [*headings, "GB/s\nread", "of the\nceiling"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for point in report.points:
        table.add_row(
            str(point.batch_size),
            f"{point.context_tokens:,}",
            f"{point.prefill_tokens_per_s:,.0f}",
            f"{point.decode_tokens_per_s:,.1f}",
            f"{1000 * point.step_s['p50']:,.1f}",
            f"{point.bytes_read_per_token / 1e6:,.1f}",
            f"{point.read_bytes_per_s / 1e9:,.1f}",
            f"{point.bandwidth_utilization:.0%}",
        )
    console.print(table)
    console.print(
        f"This machine reads {ceilings.read_bytes_per_s / 1e9:,.1f} GB/s and multiplies float32 matrices at"
        f" {ceilings.float32_flops_per_s / 1e9:,.0f} GFLOP/s (the best of several trials each)."
    )


def new_table(title: str) -> Table:
    """An empty table in the style of all of them."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _milliseconds(quantiles: dict[str, float]) -> list[str]:
    numbers = [1000 * quantiles[name] for name in QUANTILES] if quantiles else []
    return [f"{number:,.1f}" if number < 100 else f"{number:,.0f}" for number in numbers] or ["-"] * len(QUANTILES)
