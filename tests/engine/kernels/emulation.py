"""Kernels with an instruction that this CPU may lack."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.kernels import build
from engine.kernels.build import build_best
from engine.kernels.levels import wanted_levels
from tests.engine.kernels.conftest import forget_library

EMULATION = (
    "-DDOT_PAIRS(acc, w, x)="
    "vfma((vf)((w) << 16), (vf)((x) << 16), vfma((vf)((w) & 0xffff0000u), (vf)((x) & 0xffff0000u), acc))"
)
"""What the instruction vdpbf16ps does with normal numbers, in the order of its sums, on any CPU."""


@contextmanager
def emulated_pairs(folder: Path) -> Iterator[None]:
    """Kernels that multiply pairs of columns, whatever this CPU has; compiled here, so that a failure is one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "COMPILE", (*build.COMPILE, EMULATION))
        build_best(folder, wanted_levels())
        forget_library()
        yield
    forget_library()
