"""The pieces of benchmarks/gpu.py by name; as a program it runs one and prints what it found as one line of JSON."""

import argparse
import contextlib
import importlib
import importlib.util
import json
import sys
from typing import Any, NamedTuple

from benchmarks.gpu_runs.timing import Device

KERNELS, ENGINE = ("triton", "msgspec"), ("triton", "msgspec", "pydantic", "cyclopts")


class Piece(NamedTuple):
    """One measurement.

    Attributes:
        module: under benchmarks.gpu_runs, imported by the process that runs it.
        function: of it: Device -> what goes into the report.
        limit_s: after which it is ended.
        needs: packages beside PyTorch.
    """

    module: str
    function: str
    limit_s: float
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Which of the packages are not there."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def run(self, device: Device) -> dict[str, Any]:
        """Import and run it."""
        found: dict[str, Any] = getattr(importlib.import_module(f"benchmarks.gpu_runs.{self.module}"), self.function)(
            device
        )
        return found


PIECES = {
    "ceilings": Piece("ceilings", "run", 60),
    "tune": Piece("attention_kernels", "run_tune", 100, KERNELS),
    "decode_kernel": Piece("attention_kernels", "run_decode", 60, KERNELS),
    "prefill_kernel": Piece("attention_kernels", "run_prefill", 60, KERNELS),
    "attention_memory": Piece("memory", "run", 60, ENGINE),
    "llama_decode": Piece("engine_steps", "run_decode", 120, ENGINE),
    "throughput": Piece("offline", "run_throughput", 90, ENGINE),
    "heads": Piece("engine_steps", "run_heads", 180, ENGINE),
    "tests": Piece("tests", "run", 240, ("pytest", *ENGINE)),
    "beside_transformers": Piece("offline", "run_beside_transformers", 150, ("transformers", *ENGINE)),
    "kernel_tests": Piece("tests", "run_kernels", 200, ("pytest", "hypothesis", "transformers", *ENGINE)),
    "growth": Piece("engine_steps", "run_growth", 150, ENGINE),
}
"""What matters most comes first: the budget may end before the last."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("piece", choices=PIECES)
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    # What libraries print must not come between.
    with contextlib.redirect_stdout(sys.stderr):
        found = PIECES[args.piece].run(Device(is_rehearsal=args.rehearse))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
