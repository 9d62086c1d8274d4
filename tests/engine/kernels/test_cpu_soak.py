"""All tests of the native kernels again: at every level of this CPU, and under sanitizers. In processes of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.kernels.levels import VARIABLE, supported_levels

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[2]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g"
pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def run_tests(environ: dict[str, str], *arguments: str) -> None:
    """All test_cpu_*.py but this one, and no `soak` tests, with these variables set."""
    files = sorted(str(path) for path in FOLDER.glob("test_cpu_*.py") if path.name != Path(__file__).name)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not soak", *arguments, *files]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, check=False, timeout=3000
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-8000:]


@pytest.mark.parametrize("name", [level.name for level in supported_levels()])
def test_every_level(name: str) -> None:
    run_tests({VARIABLE: name}, "--deselect", str(FOLDER / "test_cpu_levels.py"))


@pytest.fixture
def sanitizer() -> str:
    """The runtime of gcc's address sanitizer, which has to be in the process before Python is."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc on the PATH")
    found = subprocess.run([gcc, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip())
    if not path.is_absolute():
        pytest.skip("gcc has no address sanitizer here")
    return str(path.resolve())


def test_no_read_or_write_out_of_bounds_and_no_undefined_behaviour(sanitizer: str, tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\nexec gcc {FLAGS} "$@"\n')
    compiler.chmod(0o755)
    variables = {
        "CC": str(compiler),
        "HEADCOUNT_CACHE_DIR": str(tmp_path / "cache"),
        "LD_PRELOAD": sanitizer,
        # The interpreter ends with much that it never freed.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    # What the other tests of building look at is which files are there, and they set variables of their own.
    run_tests(variables, "--deselect", str(FOLDER / "test_cpu_build.py"))
