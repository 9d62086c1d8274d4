"""All tests of the native kernels again: at every level of this CPU, and under sanitizers. In processes of their own."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.kernels import build
from engine.kernels.build import build_library
from engine.kernels.levels import VARIABLE, Level, supported_levels
from tests.engine.kernels.emulation import AMX, PAIRS, goes_with_amx

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[2]
SANITIZERS = {
    # Calls in place of code at every access: the kernels' functions are long, and would take many minutes to compile.
    "address": "-fsanitize=address --param asan-instrumentation-with-call-threshold=0",
    "undefined": "-fsanitize=undefined -fno-sanitize-recover=all",
}
LEVELS = list({level.name: level for level in (supported_levels()[0], supported_levels()[-1])}.values())
BUILD_TIMEOUT_S = 1200
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
    run_tests({VARIABLE: name})


def asan_runtime() -> str:
    """The address sanitizer's library, which has to be in a process before Python is."""
    found = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip())
    if not path.is_absolute():
        pytest.skip("gcc has no address sanitizer here")
    return str(path.resolve())


def compiled_with(options: str, level: Level, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables of processes whose kernels gcc compiles with further options."""
    compiler, cache = folder / "cc", folder / "cache"
    compiler.write_text(f'#!/bin/sh\nexec gcc "$@" {options}\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    # Here, so that a failure is one (the tests would take PyTorch's kernels and be skipped), and takes its time.
    build_library(cache / "kernels", level)
    for emulation in (PAIRS, AMX) if goes_with_amx(level) else (PAIRS,):
        with monkeypatch.context() as patch:
            patch.setattr(build, "COMPILE", (*build.COMPILE, *emulation))
            build_library(cache / "kernels", level)
    return {"CC": str(compiler), "HEADCOUNT_CACHE_DIR": str(cache), VARIABLE: level.name}


needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on the PATH")


@needs_gcc
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the tunings are x86's")
@pytest.mark.parametrize("processor", ["haswell", "skylake-avx512", "znver3"])
def test_tuned_for_another_processor(processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's numbers do not depend on the others, whatever the compiler takes for fast."""
    run_tests(
        compiled_with(f"-mtune={processor}", LEVELS[0], tmp_path, monkeypatch),
        "-k",
        "does_not_depend or do_not_change or alone",
    )


@needs_gcc
@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_nothing_out_of_bounds_and_nothing_undefined(
    level: Level, sanitizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "TIMEOUT_S", BUILD_TIMEOUT_S)
    variables = compiled_with(f"-O1 -g {SANITIZERS[sanitizer]}", level, tmp_path, monkeypatch)
    if sanitizer == "address":
        # The interpreter ends with much that it never freed.
        variables |= {"LD_PRELOAD": asan_runtime(), "ASAN_OPTIONS": "detect_leaks=0"}
    # What the tests of building compile themselves is not to the point.
    run_tests(variables, "--deselect", str(FOLDER / "test_cpu_build.py"))
