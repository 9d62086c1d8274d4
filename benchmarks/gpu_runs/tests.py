"""The tests that need a GPU, as a piece: how many passed, and which did not."""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu_runs.timing import Device

ROOT = Path(__file__).parents[2]
NUM_WORKERS = 6
"""Compiling kernels is most of the time, and that is the host's."""


GPU_TESTS = ("tests/gpu",)
KERNEL_TESTS = tuple(
    f"tests/engine/kernels/test_triton_{name}.py" for name in ("attention", "elementwise", "grouped", "store")
)
"""Small and many: the same that run in Triton's interpreter where there is no GPU."""


def run(device: Device) -> dict[str, Any]:
    """Those that need a GPU; in a rehearsal they are collected, and skip themselves."""
    return _run(GPU_TESTS, device)


def run_kernels(device: Device) -> dict[str, Any]:
    """Those that run everywhere, here compiled; in a rehearsal a sample of them."""
    return _run(KERNEL_TESTS[-1:] if device.is_rehearsal else KERNEL_TESTS, device)


def _run(paths: tuple[str, ...], device: Device) -> dict[str, Any]:
    has_xdist = importlib.util.find_spec("xdist") is not None and not device.is_rehearsal
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", *paths, f"--junit-xml={report}", "-o", "filterwarnings=default"]
        command += ["-n", str(NUM_WORKERS)] if has_xdist else []
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not report.exists():
            raise RuntimeError(f"pytest did not run:\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}")
        return _tally(ElementTree.parse(report).getroot())


def _tally(root: ElementTree.Element) -> dict[str, Any]:
    cases = list(root.iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    num_skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "num_passed": len(cases) - len(failed) - num_skipped,
        "num_skipped": num_skipped,
        "num_failed": len(failed),
        "failures": {f"{case.get('classname')}::{case.get('name')}": _message(case) for case in failed},
    }


def _message(case: ElementTree.Element) -> str:
    found = case.find("failure")
    found = found if found is not None else case.find("error")
    return (found.text or "")[-1500:] if found is not None else ""
