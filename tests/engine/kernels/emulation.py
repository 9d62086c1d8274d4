"""Kernels with instructions that this CPU may lack."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from engine.kernels import build
from engine.kernels.build import build_best, load_library
from engine.kernels.levels import VARIABLE, Level, supported_levels, wanted_levels
from tests.engine.kernels.conftest import forget_library

Emulated = Callable[[Path], AbstractContextManager[None]]

_DOT_PAIRS = (
    "-DDOT_PAIRS(acc, w, x)="
    "vfma((vf)((w) << 16), (vf)((x) << 16), vfma((vf)((w) & 0xffff0000u), (vf)((x) & 0xffff0000u), acc))"
)

PAIRS = (_DOT_PAIRS, "-DHAS_AMX=0")
"""What the instruction vdpbf16ps does with normal numbers, in the order of its sums, on any CPU; without AMX, which would be used."""

_AMX_SOURCE = Path(__file__).with_name("emulated_amx.h")
_AMX_DIGEST = hashlib.sha256(_AMX_SOURCE.read_bytes()).hexdigest()[:16]

AMX = (_DOT_PAIRS, "-include", str(_AMX_SOURCE), f"-DAMX_SOURCE={_AMX_DIGEST}")
"""What AMX's instructions do. The digest gives the library another name when the source changes."""


def goes_with_amx(level: Level) -> bool:
    """Whether CPUs with AMX have the vectors of this level. At others weights are packed in ways that AMX does not read."""
    return "avx512_vnni" in level.features


def need_level(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the kernels are of this level; a skip where CPU or compiler lack it."""
    if name not in [level.name for level in supported_levels()]:
        pytest.skip(f"this CPU has no {name}")
    monkeypatch.setenv(VARIABLE, name)
    forget_library()
    if isinstance(load_library(), str):
        pytest.skip(f"the compiler knows no {name}")


@contextmanager
def emulated_pairs(folder: Path) -> Iterator[None]:
    """Kernels that multiply pairs of columns by vectors, whatever this CPU has."""
    with _compiled_with(folder, *PAIRS):
        yield


@contextmanager
def emulated_amx(folder: Path) -> Iterator[None]:
    """Kernels that multiply by AMX, on a CPU that need not have it."""
    if not goes_with_amx(wanted_levels()[0]):
        pytest.skip("the vectors of this level are not those of a CPU with AMX")
    with _compiled_with(folder, *AMX):
        yield


@contextmanager
def _compiled_with(folder: Path, *options: str) -> Iterator[None]:
    """Compiled here, so that a failure is one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "COMPILE", (*build.COMPILE, *options))
        build_best(folder, wanted_levels())
        forget_library()
        try:
            yield
        finally:
            forget_library()
