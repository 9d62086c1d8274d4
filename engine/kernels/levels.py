"""Instruction sets that the native CPU kernels are compiled for, and which of them this CPU has. No torch."""

import ctypes
import os
import platform
from pathlib import Path
from typing import NamedTuple

VARIABLE = "HEADCOUNT_CPU_LEVEL"
"""The environment variable that names the level to run, for tests and comparisons: one that this CPU has."""


class Level(NamedTuple):
    """One way to compile the kernels; src/common.h derives the width of a vector from what the flags define.

    Attributes:
        name: of the level.
        machine: which kind of CPU, as platform.machine() says it; empty: any.
        flags: of the compiler.
        features: that the CPU has to have, as Linux calls them in /proc/cpuinfo.
    """

    name: str
    machine: str
    flags: tuple[str, ...]
    features: frozenset[str]


class LevelError(ValueError):
    """A level was asked for that this CPU does not have."""


_AVX2 = ("avx2", "fma", "f16c", "bmi1", "bmi2")
_AVX512 = (*_AVX2, "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl")
_VNNI = (*_AVX512, "avx512_vnni")
_BF16 = (*_VNNI, "avx512_bf16")
_AMX = ("amx_tile", "amx_bf16", "amx_int8")
_LEFT_OUT_WITHOUT_AMX = {*_AMX, "avx512_bf16"}
"""Where a CPU has AMX and the system refuses it: such CPUs take two cycles for what AVX512-BF16 does, and are faster with float32."""
_OPTIONS = {"bmi1": "bmi"} | {feature: feature.replace("_", "-") for feature in _AMX}

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
"""Of Linux on x86: the system call, ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA."""


def _x86(name: str, features: tuple[str, ...]) -> Level:
    names = (_OPTIONS.get(feature, feature.replace("_", "")) for feature in features)
    # Tuned for the CPU that compiles: an order of instructions, which changes none of them.
    return Level(name, "x86_64", (*(f"-m{feature}" for feature in names), "-mtune=native"), frozenset(features))


LEVELS = (
    _x86("amx", (*_BF16, *_AMX)),
    _x86("avx512_bf16", _BF16),
    _x86("avx512_vnni", _VNNI),
    _x86("avx512", _AVX512),
    _x86("avx2_vnni", (*_AVX2, "avx_vnni")),
    _x86("avx2", _AVX2),
    Level("neon_dotprod", "aarch64", ("-march=armv8.2-a+dotprod",), frozenset({"asimd", "asimddp"})),
    Level("generic", "", (), frozenset()),
)
"""Best first. generic is what the compiler makes of its defaults: SSE2, NEON, or whatever the CPU's kind has at least."""


def cpu_features() -> frozenset[str]:
    """The features of this CPU that this process may use, where the system tells them (Linux), else none.

    Side effect: of a CPU that has AMX, its registers are asked for.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    # One line a core. What one of them lacks, a thread that moves there lacks too.
    listed = [frozenset(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))]
    features = frozenset.intersection(*listed) if listed else frozenset()
    if "amx_tile" in features and not _may_use_amx():
        return features - _LEFT_OUT_WITHOUT_AMX
    return features


def _may_use_amx() -> bool:
    """Ask for AMX's registers. Linux gives them only to a process that does, from 5.16 on, if nothing forbids it."""
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


def supported_levels() -> list[Level]:
    """The levels of this CPU, best first; the last one is generic."""
    machine, features = platform.machine(), cpu_features()
    return [level for level in LEVELS if level.machine in ("", machine) and level.features <= features]


def wanted_levels() -> list[Level]:
    """The levels to try, in order: the one that the environment names, else all that this CPU has.

    Raises:
        LevelError: the environment names a level that this CPU does not have.
    """
    supported, name = supported_levels(), os.environ.get(VARIABLE)
    if not name:
        return supported
    wanted = [level for level in supported if level.name == name]
    if not wanted:
        names = ", ".join(level.name for level in supported)
        raise LevelError(f"{VARIABLE}: this CPU has the levels {names}, got {name}")
    return wanted
