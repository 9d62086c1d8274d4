"""What every report of a measurement holds: the command that repeats it, when, and on which machine."""

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from server.cli.machine import machine_facts


def new_report(module: str, **found: Any) -> dict[str, Any]:
    """A report of `python -m benchmarks.{module}` with the arguments of this process.

    Args:
        module: its name.
        found: what was measured, by the fields of the report.
    """
    return {
        "command": shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine_facts(),
        "load_average": os.getloadavg(),
        **found,
    }


def write_report(report: dict[str, Any], output: Path | None) -> None:
    """As JSON; nowhere where no file is named."""
    if output:
        output.write_text(json.dumps(report, indent=2) + "\n")
