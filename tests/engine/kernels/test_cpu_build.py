"""Compiling, caching, and what happens where neither is possible."""

import logging
from pathlib import Path

import pytest

from engine.kernels import build
from engine.kernels.build import (
    NO_COMPILER,
    KernelBuildError,
    build_best,
    build_library,
    describe_library,
    load_library,
    open_library,
)
from engine.kernels.levels import LEVELS, VARIABLE

GENERIC = LEVELS[-1]


@pytest.fixture
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build_library(tmp_path_factory.getbasetemp() / "kernels", GENERIC)
    except KernelBuildError as error:
        pytest.skip(str(error))


def fake_compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only program on the PATH is a cc that runs `script`."""
    folder.mkdir(exist_ok=True)
    (folder / "cc").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)


def test_the_second_time_nothing_is_compiled(compiled: Path) -> None:
    stamp = compiled.stat().st_mtime_ns
    assert build_library(compiled.parent, GENERIC) == compiled
    assert compiled.stat().st_mtime_ns == stamp
    assert [path.name for path in compiled.parent.iterdir()] == [compiled.name]


def test_the_library_loads(compiled: Path) -> None:
    assert open_library(compiled).hc_linear


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(KernelBuildError, match="no C compiler"):
        build_library(tmp_path, GENERIC)


def test_without_a_compiler_what_was_compiled_before_serves(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(compiled.parent))
    monkeypatch.delenv("CC", raising=False)
    assert build_library(compiled.parent, GENERIC) == compiled


def test_without_a_compiler_a_lower_level_serves(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(compiled.parent))
    monkeypatch.delenv("CC", raising=False)
    assert build_best(compiled.parent, list(LEVELS)) == (GENERIC, compiled)


def test_what_is_there_is_told_without_compiling(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "generic")
    monkeypatch.setenv("HEADCOUNT_CACHE_DIR", str(compiled.parent.parent))
    assert describe_library() == "generic"
    monkeypatch.setenv("HEADCOUNT_CACHE_DIR", str(tmp_path))
    assert describe_library() == "generic, compiled at the first start"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert describe_library() == f"none, {NO_COMPILER}"
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = '[ "$1" = --version ] && exit 0\necho "a.c:1: error: out of luck" >&2\nexit 1'
    fake_compiler(tmp_path / "bin", script, monkeypatch)
    with pytest.raises(KernelBuildError, match=r"cc failed: a\.c:1: error: out of luck"):
        build_library(tmp_path / "cache", GENERIC)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path / "bin", "exit 0", monkeypatch)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(KernelBuildError, match="cannot write"):
        build_library(tmp_path / "cache", GENERIC)


def test_a_library_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "bad.so").write_text("no library")
    with pytest.raises(KernelBuildError, match="does not load"):
        open_library(tmp_path / "bad.so")


def test_the_reason_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HEADCOUNT_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    load_library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger=build.__name__):
            reasons = [load_library(), load_library()]
    finally:
        load_library.cache_clear()
    assert reasons == [NO_COMPILER] * 2
    assert [record.getMessage() for record in caplog.records] == [
        "native CPU kernels are not available, PyTorch's are used instead: no C compiler (cc) on the PATH"
    ]
