"""FlashAttention's claim on this machine: attention's memory grows with the length, not with its square."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from benchmarks.attention_memory import draw

ROOT = Path(__file__).parents[2]


def test_no_score_matrix(tmp_path: Path) -> None:
    """In a process of its own, whose heap has no holes yet."""
    path = tmp_path / "memory.json"
    command = [sys.executable, "-m", "benchmarks.attention_memory", "--seq-lens", "1024", "2048", "4096"]
    subprocess.run([*command, "--output", str(path)], cwd=ROOT, check=True, capture_output=True)
    report = json.loads(path.read_text())
    points = report["points"]
    for point, doubled in pairwise(points):
        assert point["peak_bytes"] >= 0.5 * point["output_bytes"]  # the heap has a little of its own
        assert doubled["peak_bytes"] < 2.2 * point["peak_bytes"]
    assert points[-1]["peak_bytes"] < points[-1]["score_matrix_bytes"] / 20
    assert draw(report, tmp_path).read_bytes().startswith(b"\x89PNG")
