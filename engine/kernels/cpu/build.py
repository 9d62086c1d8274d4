"""The C sources become a shared library: compiled once a machine, then found in the cache folder.

The sources use no header but the C library's, so that compiling takes seconds and needs neither PyTorch's headers nor
its compiler. They bring their own threads (src/parallel.c says why not OpenMP's).
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from checkpoints.cache import cache_folder

SOURCES = Path(__file__).parent / "src"
COMPILE = ("-O3", "-march=native", "-std=gnu11", "-pthread", "-fPIC", "-fvisibility=hidden", "-c")
LINK = ("-shared", "-pthread", "-lm")
TIMEOUT_S = 120

_log = logging.getLogger(__name__)


class KernelBuildError(Exception):
    """There is no native library on this machine; the message says why."""


@functools.cache
def load_library() -> ctypes.CDLL | str:
    """The library, or why there is none (logged once, as a warning)."""
    try:
        return open_library(build_library(cache_folder() / "kernels"))
    except KernelBuildError as error:
        _log.warning("native CPU kernels are not available, PyTorch's are used instead: %s", error)
        return str(error)


def build_library(folder: Path) -> Path:
    """The path of the compiled library in `folder`, where it is compiled first if need be.

    Its name has a hash of the sources, the flags and this CPU, and one of the compiler. Without a compiler any
    library of the first hash will do.

    Raises:
        KernelBuildError: no compiler, or it fails, or the folder cannot be written.
    """
    stem = f"cpu-{_digest(_source_text(), ' '.join(COMPILE + LINK), _cpu_text())}"
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        built = sorted(folder.glob(f"{stem}-*.so"))
        if not built:
            raise KernelBuildError("no C compiler (cc) on the PATH")
        return built[0]
    target = folder / f"{stem}-{_digest(_run([compiler, '--version']))}.so"
    if not target.exists():
        _compile(compiler, target)
    return target


def open_library(path: Path) -> ctypes.CDLL:
    """Load the library into this process.

    Raises:
        KernelBuildError: it does not load.
    """
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelBuildError(f"the compiled library does not load: {error}") from error


def _compile(compiler: str, target: Path) -> None:
    """Compile all sources side by side, link, and move the result into place in one step."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            sources = sorted(SOURCES.glob("*.c"))
            objects = [Path(scratch) / f"{source.stem}.o" for source in sources]
            commands = [
                [compiler, *COMPILE, str(source), "-o", str(obj)] for source, obj in zip(sources, objects, strict=True)
            ]
            _run_all(commands)
            library = Path(scratch) / "library.so"
            _run([compiler, *map(str, objects), *LINK, "-o", str(library)])
            library.replace(target)
    except OSError as error:
        raise KernelBuildError(f"cannot write {target.parent}: {error}") from error


def _run_all(commands: list[list[str]]) -> None:
    """Run the commands side by side; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(len(commands)) as pool:
        list(pool.map(_run, commands))


def _run(command: list[str]) -> str:
    try:
        # Only the compiler found above runs here, with file names of ours.
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelBuildError(f"{command[0]} does not run: {error}") from error
    if result.returncode:
        raise KernelBuildError(_failure(command, result.stderr))
    return result.stdout


def _failure(command: list[str], errors: str) -> str:
    """The command and the first line that says `error`."""
    lines = [line for line in errors.splitlines() if "error" in line] or errors.splitlines() or ["no message"]
    return f"{Path(command[0]).name} failed: {lines[0].strip()}"


def _source_text() -> str:
    return "".join(path.name + path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.[ch]")))


def _cpu_text() -> str:
    """What -march=native depends on: the model and features of the CPU, where the system tells them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = ("flags", "Features", "model", "cpu family", "CPU part")
    return "\n".join([platform.machine(), *sorted({line for line in lines if line.startswith(named)})])


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
