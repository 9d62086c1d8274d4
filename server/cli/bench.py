"""`headcount bench`."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter
from pydantic import Field, field_validator

from configs.base import Settings
from server.cli.errors import CommandError
from server.cli.options import ServerOptions


@Parameter(name="*", group=Group.create_ordered("Load"))
class LoadOptions(Settings):
    """The load that a server is put under."""

    concurrency: Annotated[tuple[int, ...], Parameter(negative="")] = (1, 8)
    """Requests kept running at once; 1,8,32 measures one after the other."""

    num_requests: int | None = Field(default=None, ge=1)
    """Requests for each concurrency. Unset: four times the concurrency, at least 8."""

    prompt_tokens: int = Field(default=128, ge=1)
    """Tokens of each prompt. Every prompt is another one, so that no prefix is found in the cache."""

    max_tokens: int = Field(default=64, ge=1)
    """Tokens of each answer: exactly these, an end-of-sequence token does not end it."""

    seed: int = 0
    """The same seed draws the same prompts."""

    @field_validator("concurrency", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        parts = given if isinstance(given, tuple | list) else [given]
        return tuple(number for part in parts for number in str(part).split(","))

    @field_validator("concurrency")
    @classmethod
    def _at_least_one(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        if not given or min(given) < 1:
            raise ValueError(f"must hold numbers of at least 1, got {','.join(map(str, given))}")
        return given

    def requests_at(self, concurrency: int) -> int:
        """Requests to send while `concurrency` of them run at once."""
        return self.num_requests or max(8, 4 * concurrency)


DEFAULT_SERVER = ServerOptions()
DEFAULT_LOAD = LoadOptions()


def bench(*, server: ServerOptions = DEFAULT_SERVER, load: LoadOptions = DEFAULT_LOAD, json: Path | None = None) -> int:
    """Measure a running server under load: throughput and latency.

    Closed loop: as soon as a request ends, the next one is sent. Requests that warm the server up come first and do not
    count. Tokens are counted by the server's own usage report.

    Args:
        server: where the server is.
        load: what is sent.
        json: write the results here as well, with this machine's facts and versions.
    """
    import asyncio

    import httpx

    from server.cli.bench_report import build_report, print_report, write_report
    from server.cli.bench_run import run_bench
    from server.cli.sse import unreachable

    try:
        measured = asyncio.run(run_bench(server, load))
    except httpx.TransportError as error:
        raise unreachable(server.url, error) from error
    report = build_report(server.url, measured, load.model_dump())
    print_report(report)
    if json is not None:
        write_report(report, json)
        print(f"written to {json}", file=sys.stderr)
    if all(level.num_completed == 0 for level in measured.levels):
        raise CommandError("no request was completed")
    return int(any(level.errors for level in measured.levels))
