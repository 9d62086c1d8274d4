"""Tables of a bench for people, on standard output."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from server.cli.bench_report import QUANTILES, LevelReport, Report

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
    headings = ["load", "requests", "errors", "most\nat once", "output\ntok/s", "total\ntok/s", "requests\n/s"]
    for heading in [*headings, *(["met the SLO", "goodput\nrequests/s"] if has_slo else [])]:
        table.add_column(heading, justify="right", no_wrap=True)
    for level in report.levels:
        rates = (level.output_tokens_per_s, level.total_tokens_per_s)
        counts = (level.num_requests, level.num_errors, level.most_at_once)
        goodput = (f"{level.goodput.share:.1%}", f"{level.goodput.requests_per_s:.2f}") if level.goodput else ()
        cells = [level.title, *map(str, counts), *(f"{rate:,.1f}" for rate in rates), f"{level.requests_per_s:.2f}"]
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


def new_table(title: str) -> Table:
    """An empty table in the style of all of them."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _milliseconds(quantiles: dict[str, float]) -> list[str]:
    numbers = [1000 * quantiles[name] for name in QUANTILES] if quantiles else []
    return [f"{number:,.1f}" if number < 100 else f"{number:,.0f}" for number in numbers] or ["-"] * len(QUANTILES)
