"""The peers' processes, seen from the benchmark; and the virtual environment of llama.cpp."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peer_runs.worker import Job, Result
from checkpoints.cache import cache_folder

ROOT = Path(__file__).parents[2]
LLAMA_CPP_REQUIREMENT = "llama-cpp-python==0.3.36"

REST_S = 0.5
"""Before a turn: threads of the one before look out for work a while longer (LLVM's OpenMP 0.2 s), on cores that are not theirs."""


class PeerError(Exception):
    """A peer cannot be run; the message says why."""


class Worker:
    """One peer with its model loaded, waiting for jobs.

    Args:
        python: the interpreter that has what the module needs.
        module: below benchmarks.peer_runs.
        arguments: of the module.

    Raises:
        PeerError: it ends before its model is loaded.
    """

    def __init__(self, python: str, module: str, *arguments: str) -> None:
        command = [python, "-m", f"benchmarks.peer_runs.{module}", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._name = module
        self.versions: dict[str, str] = self._read()

    def run(self, job: Job) -> Result:
        """Do a job.

        Raises:
            PeerError: the process has ended.
        """
        print(json.dumps(job._asdict()), file=self._process.stdin, flush=True)
        return Result(**self._read())

    def close(self) -> None:
        """End the process, unless it has ended by itself."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate()

    def _read(self) -> Any:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            self._process.communicate()
            raise PeerError(f"{self._name} ended with status {self._process.returncode}; its last lines are above")
        return json.loads(line)


def llama_cpp_python(given: str | None) -> str:
    """An interpreter that imports llama_cpp: the one that is given, or one in a virtual environment made once.

    Raises:
        PeerError: there is none, and none can be made.
    """
    if given is not None:
        if subprocess.run([given, "-c", "import llama_cpp"], capture_output=True, check=False).returncode:
            raise PeerError(f"{given} does not import llama_cpp")
        return given
    folder = cache_folder() / "benchmarks" / "llama-cpp"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(python), "-m", "pip", "install", LLAMA_CPP_REQUIREMENT])
        (folder / "complete").touch()
    return str(python)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()[-500:]}")
