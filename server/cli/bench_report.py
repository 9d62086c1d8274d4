"""Sums a bench up: percentiles, a table, a JSON file that says where the numbers come from."""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import psutil
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from server.cli.bench_run import LevelTimes, Measured

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
VERSIONED = ("headcount", "torch", "httpx", "pydantic", "fastapi", "uvicorn")


class LevelReport(msgspec.Struct, frozen=True):
    """One concurrency, summed up. Latencies map p50, p90 and p99 to seconds."""

    concurrency: int
    num_requests: int
    num_errors: int
    errors: dict[str, int]
    wall_s: float
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_s: float
    total_tokens_per_s: float
    requests_per_s: float
    ttft_s: dict[str, float]
    itl_s: dict[str, float]
    e2e_s: dict[str, float]


class Report(msgspec.Struct, frozen=True):
    """A bench, with what is needed to judge and to repeat it."""

    command: str
    time: str
    url: str
    model: dict[str, Any]
    load: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    levels: list[LevelReport]


def build_report(url: str, measured: Measured, load: dict[str, Any]) -> Report:
    """Sum up what was measured on the server at `url`."""
    return Report(
        command=shlex.join(["headcount", *_without_key(sys.argv[1:])]),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        url=url,
        model=measured.model,
        load=load,
        machine=machine_facts(),
        versions={"server": measured.server_version, "python": platform.python_version(), **_versions()},
        levels=[sum_up(level) for level in measured.levels],
    )


def sum_up(level: LevelTimes) -> LevelReport:
    """Throughput over the whole wall time, latencies over the requests that ended well."""
    prompt_tokens = sum(times.prompt_tokens for times in level.completed)
    output_tokens = sum(times.output_tokens for times in level.completed)
    return LevelReport(
        concurrency=level.concurrency,
        num_requests=level.num_completed + level.errors.total(),
        num_errors=level.errors.total(),
        errors=dict(level.errors),
        wall_s=level.wall_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        output_tokens_per_s=output_tokens / level.wall_s,
        total_tokens_per_s=(prompt_tokens + output_tokens) / level.wall_s,
        requests_per_s=level.num_completed / level.wall_s,
        ttft_s=percentiles([times.ttft_s for times in level.completed]),
        itl_s=percentiles([gap for times in level.completed for gap in times.itl_s]),
        e2e_s=percentiles([times.e2e_s for times in level.completed]),
    )


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99, interpolated between neighbours; empty where there is nothing to measure."""
    ordered = sorted(values)
    return {name: _quantile(ordered, share) for name, share in QUANTILES.items()} if ordered else {}


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def machine_facts() -> dict[str, Any]:
    """The machine that the load comes from; a server on a loopback address runs on it, too."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _without_key(arguments: Sequence[str]) -> list[str]:
    """The command line fit for a file that is shared: without the key's text."""
    kept: list[str] = []
    for argument in arguments:
        if argument.startswith("--api-key="):
            kept.append("--api-key=***")
        else:
            kept.append("***" if kept and kept[-1] == "--api-key" else argument)
    return kept


def print_report(report: Report) -> None:
    """A table for people, on standard output."""
    load, console = report.load, Console(highlight=False)
    title = f"{report.model['id']}: {load['prompt_tokens']} prompt tokens, {load['max_tokens']} output tokens"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    latencies = [f"{kind}\n{name} ms" for kind in ("TTFT", "ITL") for name in QUANTILES]
    for heading in ("at once", "requests", "output\ntok/s", *latencies):
        table.add_column(heading, justify="right", no_wrap=True)
    for level in report.levels:
        table.add_row(
            str(level.concurrency),
            str(level.num_requests),
            f"{level.output_tokens_per_s:,.1f}",
            *_milliseconds(level.ttft_s),
            *_milliseconds(level.itl_s),
        )
    console.print(table)
    for level in report.levels:
        for message, count in level.errors.items():
            console.print(f"{count} errors at {level.concurrency} at once: {message}", style="red", markup=False)


def _milliseconds(quantiles: dict[str, float]) -> list[str]:
    numbers = [1000 * quantiles[name] for name in QUANTILES] if quantiles else []
    return [f"{number:,.1f}" if number < 100 else f"{number:,.0f}" for number in numbers] or ["-"] * len(QUANTILES)


def write_report(report: Report, path: Path) -> None:
    """The report as JSON, with one line a value."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
