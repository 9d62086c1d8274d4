"""FlashAttention's claim on this machine: attention's memory grows with the length, not with its square."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.attention_memory import draw

ROOT = Path(__file__).parents[2]


def test_no_score_matrix(tmp_path: Path) -> None:
    """In a process of its own, whose heap has no holes yet. Twice the length is twice the output, so what is bounded by the
    output grows with the length. Linux counts resident pages in batches a core, so short prompts are off by some 100 kB.
    """
    path = tmp_path / "memory.json"
    command = [sys.executable, "-m", "benchmarks.attention_memory", "--seq-lens", "2048", "4096", "8192"]
    subprocess.run([*command, "--output", str(path)], cwd=ROOT, check=True, capture_output=True)
    report = json.loads(path.read_text())
    points = report["points"]
    for point in points:
        assert 0.5 * point["output_bytes"] < point["peak_bytes"] < 1.5 * point["output_bytes"]
        assert point["peak_bytes"] < point["score_matrix_bytes"] / 20
    assert draw(report, tmp_path).read_bytes().startswith(b"\x89PNG")
