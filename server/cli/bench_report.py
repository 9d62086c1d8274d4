"""A bench as a JSON file that says where the numbers come from."""

import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from server.cli.bench_load import LoadOptions
from server.cli.bench_run import Measured
from server.cli.machine import machine_facts, versions_of
from server.load.summary import LevelReport, sum_up

VERSIONED = ("headcount", "torch", "httpx", "pydantic", "fastapi", "uvicorn")


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


def build_report(url: str, measured: Measured, load: LoadOptions) -> Report:
    """Sum up what was measured on the server at `url`. The machine is the one that the load comes from."""
    return Report(
        command=command_line(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        url=url,
        model=measured.model,
        load=load.model_dump(),
        machine=machine_facts(),
        versions={"server": measured.server_version, "python": platform.python_version(), **versions_of(VERSIONED)},
        levels=[sum_up(level, load.objectives_s) for level in measured.levels],
    )


def command_line() -> str:
    """The command that runs, fit for a file that is shared."""
    return shlex.join(["headcount", *_without_key(sys.argv[1:])])


def _without_key(arguments: Sequence[str]) -> list[str]:
    """The command line without the key's text."""
    kept: list[str] = []
    for argument in arguments:
        if argument.startswith("--api-key="):
            kept.append("--api-key=***")
        else:
            kept.append("***" if kept and kept[-1] == "--api-key" else argument)
    return kept


def write_report(report: msgspec.Struct, path: Path) -> None:
    """The report as JSON, with one line a value."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
