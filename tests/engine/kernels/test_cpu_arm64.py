"""The kernels for Arm, built by a cross compiler: they compile without a warning, and give right products in an emulator."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.kernels.build import COMPILE, SOURCES
from engine.kernels.cpu.library import DTYPES
from engine.kernels.int8 import quantize_weight
from engine.kernels.levels import LEVELS, Level
from tests.engine.kernels.rounding import assert_within, output_eps, sum_eps
from tests.engine.kernels.test_cpu_int8 import exact_and_bound

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
ARM_LEVELS = [
    pytest.param(level, id=level.name, marks=[] if level.machine else [pytest.mark.soak])
    for level in LEVELS
    if level.machine in ("aarch64", "")
]
PROGRAM = Path(__file__).parent / "arm64" / "products.c"

Product = Callable[[str, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def find(program: str, package: str) -> str:
    """Its path; without it the test is skipped, but not in CI, which installs it."""
    path = shutil.which(program)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is not installed: .ci/run installs it")
        pytest.skip(f"{program} is not installed (Debian: apt-get install {package})")
    return path


@pytest.fixture(scope="module", params=ARM_LEVELS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """products.c with all kernels, for a level; a warning is an error."""
    level: Level = request.param
    compiler = find(COMPILER, "gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
    folder = tmp_path_factory.mktemp(level.name)
    flags = [*COMPILE, *level.flags, "-Wall", "-Werror"]
    sources = [*sorted(SOURCES.glob("*.c")), PROGRAM]
    running = [
        subprocess.Popen([compiler, *flags, str(source), "-o", str(folder / f"{source.stem}.o")]) for source in sources
    ]
    assert [process.wait() for process in running] == [0] * len(running)
    objects = [str(folder / f"{source.stem}.o") for source in sources]
    target = folder / "products"
    subprocess.run([compiler, "-static", "-pthread", *objects, "-lm", "-o", str(target)], check=True)
    return target


@pytest.fixture
def product(program: Path, tmp_path: Path) -> Product:
    """product(kind, x, weight, scale) in the emulator."""
    emulator = find(EMULATOR, "qemu-user")

    def run(kind: str, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        for name, tensor in (("x", x), ("weight", weight), ("scale", scale)):
            if tensor is not None:
                (tmp_path / name).write_bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        shape = (x.shape[0], weight.shape[0], x.shape[1])
        subprocess.run(
            [emulator, str(program), kind, str(DTYPES[x.dtype]), *map(str, shape), str(tmp_path)], check=True
        )
        y = torch.frombuffer(bytearray((tmp_path / "y").read_bytes()), dtype=x.dtype)
        return y.view(shape[:2])

    return run


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_rows", [1, 5, 33])
def test_products(num_rows: int, dtype: torch.dtype, product: Product) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(num_rows, 96).to(dtype), torch.randn(70, 96).to(dtype)
    exact = x.double() @ weight.double().t()
    bound = sum_eps(96) * (x.double().abs() @ weight.double().abs().t()) + output_eps(dtype) * exact.abs() * 1.01
    assert_within(product("whole", x, weight, None), exact, bound)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_rows", [1, 5, 33])
def test_products_of_8_bit_integers(num_rows: int, dtype: torch.dtype, product: Product) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(num_rows, 160).to(dtype), quantize_weight(torch.randn(70, 160))
    exact, bound = exact_and_bound(x, weight, None, None, dtype)
    assert_within(product("int8", x, *weight), exact, bound)
