"""benchmarks/gpu.py where there is no GPU: it rehearses, it survives what fails, and it does its sums right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu_runs.pieces import PIECES, Piece
from benchmarks.gpu_runs.steps import idle_share
from benchmarks.gpu_runs.targets import TARGETS, verdicts

ROOT = Path(__file__).parents[2]


def test_a_rehearsal_runs_the_engine_and_says_that_it_is_one(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--only", "throughput", "--output", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    report = json.loads(path.read_text())
    assert report["is_rehearsal"]
    assert report["targets"] == []
    found = report["pieces"]["throughput"]
    # Without Triton it is left out, and says so.
    assert found.get("num_output_tokens") == 13 or found["skipped"] == "not installed: triton"


def test_every_piece_is_there() -> None:
    for name, piece in PIECES.items():
        module = ROOT / "benchmarks" / "gpu_runs" / f"{piece.module}.py"
        assert f"def {piece.function}(device: Device)" in module.read_text(), name


def test_what_cannot_run_is_reported_with_its_reason() -> None:
    def run(piece: Piece, left_s: float = 100) -> dict[str, object]:
        return gpu.run_piece("ceilings", piece, left_s, is_rehearsal=True)

    ceilings = PIECES["ceilings"]
    assert run(ceilings._replace(needs=("no_such_package",))) == {"skipped": "not installed: no_such_package"}
    assert run(ceilings, left_s=2) == {"skipped": "2 s of the budget were left"}
    assert "invalid choice" in str(gpu.run_piece("no_such_piece", ceilings, 100, is_rehearsal=True)["failed"])


def test_idle_is_what_no_interval_covers() -> None:
    assert idle_share([(0, 4), (2, 6), (8, 10)]) == pytest.approx(0.2)
    assert idle_share([(5, 6), (0, 10)]) == 0


def test_targets_are_judged_by_what_was_measured() -> None:
    pieces = {
        "decode_kernel": {"variants": {"mha": {"share_of_copy": 0.95}, "gqa": {"share_of_copy": 0.85}}},
        "tests": {"skipped": "not installed: pytest"},
        "llama_decode": {"points": [{"step_s": 4.0e-3}, {"share_of_floor": 0.8, "idle_share": None}]},
    }
    found = {verdict["says"]: verdict for verdict in verdicts(pieces)}
    assert len(found) == len(TARGETS)
    assert found["decode kernel, MHA, share of copy bandwidth"]["holds"]
    assert not found["decode kernel, GQA, share of copy bandwidth"]["holds"]
    assert found["8B, batch 1, seconds a token"]["holds"]
    for says in ("decode kernel, MQA, share of copy bandwidth", "8B, batch 256, idle share", "failed tests"):
        assert found[says]["figure"] is None
        assert "holds" not in found[says]
