"""`headcount bench`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from server.cli.bench_load import LoadOptions
from server.cli.bench_sweep import SweepOptions
from server.cli.errors import CommandError
from server.cli.options import ServerOptions

if TYPE_CHECKING:
    from msgspec import Struct

DEFAULT_SERVER = ServerOptions()
DEFAULT_LOAD = LoadOptions()
DEFAULT_SWEEP = SweepOptions()


def bench(
    *,
    server: ServerOptions = DEFAULT_SERVER,
    load: LoadOptions = DEFAULT_LOAD,
    offline: str | None = None,
    sweep: SweepOptions = DEFAULT_SWEEP,
    json: Path | None = None,
) -> int:
    """Measure a running server under load, or with --offline a model in this process.

    Closed loop: as soon as a request ends, the next one is sent. Open loop (--request-rate): requests arrive on their
    own, and latency counts from when a request was due. Requests that warm the server up come first and do not count.
    Tokens are counted by the server's own usage report; a request that fails, or whose answer has another length,
    counts as an error.

    Offline: no HTTP; prefill and decode by batch size and context, the bytes that a token reads, and how near that
    comes to what this machine's memory gives (measured too).

    Args:
        server: where the server is.
        load: what is sent.
        offline: a folder, `demo` or a repository id: measure this model here, not a server.
        sweep: what is measured offline.
        json: write the results here as well, with this machine's facts and versions.
    """
    if offline is not None:
        if load != DEFAULT_LOAD:
            raise CommandError("--offline takes no load: its own options are below Sweep in `headcount bench --help`")
        return _offline(offline, sweep, json)
    if sweep != DEFAULT_SWEEP:
        raise CommandError("the options below Sweep measure a model in this process: name it with --offline")
    return _online(server, load, json)


def _offline(model: str, sweep: SweepOptions, json: Path | None) -> int:
    from server.cli.bench_offline import run_offline
    from server.cli.bench_tables import print_offline

    report = run_offline(model, sweep)
    print_offline(report)
    _write(report, json)
    return 0


def _online(server: ServerOptions, load: LoadOptions, json: Path | None) -> int:
    import asyncio

    import httpx

    from server.cli.bench_report import build_report
    from server.cli.bench_run import run_bench
    from server.cli.bench_tables import print_report
    from server.cli.sse import unreachable

    try:
        measured = asyncio.run(run_bench(server, load))
    except httpx.TransportError as error:
        raise unreachable(server.url, error) from error
    report = build_report(server.url, measured, load)
    print_report(report)
    _write(report, json)
    if all(level.num_completed == 0 for level in measured.levels):
        raise CommandError("no request was completed")
    return int(any(level.errors for level in measured.levels))


def _write(report: "Struct", json: Path | None) -> None:
    if json is not None:
        from server.cli.bench_report import write_report

        write_report(report, json)
        print(f"written to {json}", file=sys.stderr)
