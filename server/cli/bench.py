"""`headcount bench`."""

import sys
from pathlib import Path

from server.cli.bench_load import LoadOptions
from server.cli.errors import CommandError
from server.cli.options import ServerOptions

DEFAULT_SERVER = ServerOptions()
DEFAULT_LOAD = LoadOptions()


def bench(*, server: ServerOptions = DEFAULT_SERVER, load: LoadOptions = DEFAULT_LOAD, json: Path | None = None) -> int:
    """Measure a running server under load: throughput and latency.

    Closed loop: as soon as a request ends, the next one is sent. Open loop (--request-rate): requests arrive on their
    own, and latency counts from when a request was due. Requests that warm the server up come first and do not count.
    Tokens are counted by the server's own usage report; a request that fails, or whose answer has another length,
    counts as an error.

    Args:
        server: where the server is.
        load: what is sent.
        json: write the results here as well, with this machine's facts and versions.
    """
    import asyncio

    import httpx

    from server.cli.bench_report import build_report, write_report
    from server.cli.bench_run import run_bench
    from server.cli.bench_tables import print_report
    from server.cli.sse import unreachable

    try:
        measured = asyncio.run(run_bench(server, load))
    except httpx.TransportError as error:
        raise unreachable(server.url, error) from error
    report = build_report(server.url, measured, load)
    print_report(report)
    if json is not None:
        write_report(report, json)
        print(f"written to {json}", file=sys.stderr)
    if all(level.num_completed == 0 for level in measured.levels):
        raise CommandError("no request was completed")
    return int(any(level.errors for level in measured.levels))
