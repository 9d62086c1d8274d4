"""Progress bars: seen on a terminal, silent elsewhere."""

import os
import pty
import subprocess
import sys
from pathlib import Path

CODE = """
from checkpoints.progress import byte_progress
with byte_progress("Dequantizing", 1000) as on_progress:
    on_progress(1000)
"""


def test_silent_without_a_terminal() -> None:
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_seen_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-c", CODE]
    subprocess.run(command, cwd=Path(__file__).parents[2], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "Dequantizing" in shown
    assert "1.0/1.0 kB" in shown
