"""The C sources of the CPU kernels become a shared library: compiled once a machine, then found in the cache folder.

A library is compiled for one level (levels.py), the best one that CPU and compiler have; the same cache folder serves
machines of other levels too. The sources use no header but the C library's, so that compiling takes seconds and needs
neither PyTorch's headers nor its compiler. They bring their own threads (cpu/src/parallel.c says why not OpenMP's). No torch.
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
from typing import NamedTuple

from checkpoints.cache import cache_folder
from engine.kernels.levels import Level, LevelError, wanted_levels

SOURCES = Path(__file__).parent / "cpu" / "src"
COMPILE = ("-O3", "-std=gnu11", "-ffp-contract=off", "-pthread", "-fPIC", "-fvisibility=hidden", "-c")
LINK = ("-shared", "-pthread", "-lm")
TIMEOUT_S = 120
NO_COMPILER = "no C compiler (cc) on the PATH"

_log = logging.getLogger(__name__)


class KernelBuildError(Exception):
    """There is no native library on this machine; the message says why."""


class Library(NamedTuple):
    """The compiled kernels.

    Attributes:
        functions: as ctypes finds them.
        level: that they are compiled for.
    """

    functions: ctypes.CDLL
    level: str


@functools.cache
def load_library() -> Library | str:
    """The library, or why there is none (logged once, as a warning)."""
    try:
        level, path = build_best(cache_folder() / "kernels", wanted_levels())
        return Library(open_library(path), level.name)
    except (KernelBuildError, LevelError) as error:
        _log.warning("native CPU kernels are not available, PyTorch's are used instead: %s", error)
        return str(error)


def describe_library() -> str:
    """Which native kernels this machine runs, in words; nothing is compiled for it."""
    try:
        levels = wanted_levels()
    except LevelError as error:
        return f"none, {error}"
    folder, compiler = cache_folder() / "kernels", _find_compiler()
    if compiler is not None:
        return f"{levels[0].name}" + ("" if _find_built(folder, levels[0]) else ", compiled at the first start")
    return next((level.name for level in levels if _find_built(folder, level)), f"none, {NO_COMPILER}")


def build_best(folder: Path, levels: list[Level]) -> tuple[Level, Path]:
    """The first of `levels` that there is a library for, or that compiles, and its path.

    Raises:
        KernelBuildError: there is none; why the first one cannot be had.
    """
    failures: list[KernelBuildError] = []
    for level in levels:
        try:
            path = build_library(folder, level)
        except KernelBuildError as error:
            failures.append(error)
        else:
            if failures:
                _log.warning(
                    "native CPU kernels: level %s is used, for %s: %s", level.name, levels[0].name, failures[0]
                )
            return level, path
    raise failures[0]


def build_library(folder: Path, level: Level) -> Path:
    """The path of the library compiled for `level` in `folder`, where it is compiled first if need be.

    Its name has a hash of the sources and flags, and one of the compiler. Without a compiler any library of the first
    hash will do.

    Raises:
        KernelBuildError: no compiler, or it fails, or the folder cannot be written.
    """
    compiler = _find_compiler()
    if compiler is None:
        built = _find_built(folder, level)
        if not built:
            raise KernelBuildError(NO_COMPILER)
        return built[0]
    target = folder / f"{_stem(level)}-{_digest(_run([compiler, '--version']))}.so"
    if not target.exists():
        _compile(compiler, level, target)
    return target


def _find_compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")


def _find_built(folder: Path, level: Level) -> list[Path]:
    return sorted(folder.glob(f"{_stem(level)}-*.so"))


def _stem(level: Level) -> str:
    return f"cpu-{level.name}-{_digest(_source_text(), ' '.join(COMPILE + level.flags + LINK), platform.machine())}"


def open_library(path: Path) -> ctypes.CDLL:
    """Load the library into this process.

    Raises:
        KernelBuildError: it does not load.
    """
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelBuildError(f"the compiled library does not load: {error}") from error


def _compile(compiler: str, level: Level, target: Path) -> None:
    """Compile all sources side by side, link, and move the result into place in one step."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            sources = sorted(SOURCES.glob("*.c"))
            objects = [Path(scratch) / f"{source.stem}.o" for source in sources]
            commands = [
                [compiler, *COMPILE, *level.flags, str(source), "-o", str(obj)]
                for source, obj in zip(sources, objects, strict=True)
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


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
