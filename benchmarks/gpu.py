"""Everything that is known about a GPU, in one command: the tests of tests/gpu, the two ceilings, and every target.

    python -m benchmarks.gpu --output benchmarks/results/gpu.json
    python -m benchmarks.gpu --only decode_kernel prefill_kernel

It needs this repository, PyTorch and Triton; pieces that run the engine also msgspec, pydantic and cyclopts. Models are shapes:
their weights are made on the device. Each piece is a process of its own with a time limit, so that one that fails costs
itself and not the rest; the file is written anew after each. What does not run is in the file with its reason.

`--rehearse` runs all of it on a CPU at sizes that mean nothing, to see that it runs: its figures are worthless, and say so.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_runs.pieces import PIECES, Piece
from benchmarks.gpu_runs.targets import verdicts
from benchmarks.gpu_runs.timing import Device

MIN_PIECE_S = 5.0
"""A piece that has less time than this left is not begun."""

Report = dict[str, Any]


def main() -> int:
    args = parse_arguments()
    if not args.rehearse and not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU here; run this on a machine with one, or see that it runs with --rehearse")
    started_s = time.monotonic()
    report = header(is_rehearsal=args.rehearse)
    for name in args.only or PIECES:
        left_s = args.budget_s - (time.monotonic() - started_s)
        report["pieces"][name] = run_piece(name, PIECES[name], left_s, is_rehearsal=args.rehearse)
        report["wall_s"] = round(time.monotonic() - started_s, 1)
        report["targets"] = [] if args.rehearse else verdicts(report["pieces"])
        show(name, report["pieces"][name])
        if args.output:
            args.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report["targets"], indent=2))
    return int(any("failed" in piece for piece in report["pieces"].values()))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PIECES, metavar="PIECE", help=f"of {', '.join(PIECES)}")
    parser.add_argument("--budget-s", type=float, default=480.0, help="seconds for all pieces together")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on a CPU: proves this command, measures nothing")
    parser.add_argument("--output", type=Path, help="JSON file")
    return parser.parse_args()


def header(*, is_rehearsal: bool) -> Report:
    """What is needed to judge the figures and to repeat them."""
    return {
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "is_rehearsal": is_rehearsal,
        "machine": Device(is_rehearsal=is_rehearsal).facts(),
        "pieces": {},
        "targets": [],
    }


def run_piece(name: str, piece: Piece, left_s: float, *, is_rehearsal: bool) -> Report:
    """What the piece's process reports; `skipped` or `failed` with the reason where it has nothing to report."""
    limit_s = min(piece.limit_s, left_s)
    if limit_s < MIN_PIECE_S:
        return {"skipped": f"{left_s:.0f} s of the budget were left"}
    if missing := piece.missing():
        return {"skipped": f"not installed: {', '.join(missing)}"}
    command = [sys.executable, "-m", "benchmarks.gpu_runs.pieces", name, *(["--rehearse"] if is_rehearsal else [])]
    started_s = time.monotonic()
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if is_rehearsal else {})
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"it ran into its limit of {limit_s:.0f} s"}
    found: Report = {"failed": ended.stderr[-4000:]} if ended.returncode else json.loads(ended.stdout.splitlines()[-1])
    return found | {"wall_s": round(time.monotonic() - started_s, 1)}


def show(name: str, found: Report) -> None:
    """One line a piece while it goes on; what failed, as it was printed."""
    state = next((word for word in ("skipped", "failed") if word in found), "done")
    print(f"{name:20} {state:8} {found.get('wall_s', 0.0):6.1f} s", flush=True)
    if state != "done":
        print(found[state], flush=True)


if __name__ == "__main__":
    sys.exit(main())
