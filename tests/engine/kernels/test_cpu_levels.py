"""Which level of instructions runs, and that every kernel is right at each level of this CPU."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.kernels import build, cpu, levels, reference
from engine.kernels.build import KernelBuildError, build_best, describe_library, load_library
from engine.kernels.levels import LEVELS, VARIABLE, LevelError, cpu_features, supported_levels, wanted_levels
from engine.kernels.quantization import LARGEST
from engine.models.spec import Activation
from kvcache.storage import SCALE_DTYPE, LayerCache
from tests.engine.kernels.rounding import DTYPES, assert_within, output_eps, sum_eps

Native = Callable[[torch.dtype], cpu.CpuKernels]
AVX2 = "fma f16c avx2 bmi1 bmi2"
AVX512 = f"{AVX2} avx512f avx512cd avx512bw avx512dq avx512vl"


@pytest.fixture
def cpu_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """cpu_with(machine, features of each core...) -> the names of its levels."""

    def names(machine: str, *cores: str) -> list[str]:
        listed = [frozenset(features.split()) for features in cores]
        monkeypatch.setattr(levels, "cpu_features", lambda: frozenset.intersection(*listed) if listed else frozenset())
        monkeypatch.setattr("platform.machine", lambda: machine)
        return [level.name for level in supported_levels()]

    monkeypatch.delenv(VARIABLE, raising=False)
    return names


def test_the_levels_of_cpus(cpu_with: Callable[..., list[str]]) -> None:
    assert cpu_with("x86_64", "sse2") == ["generic"]
    assert cpu_with("x86_64", AVX2) == ["avx2", "generic"]
    assert cpu_with("x86_64", f"{AVX2} avx_vnni") == ["avx2_vnni", "avx2", "generic"]
    assert cpu_with("x86_64", AVX512) == ["avx512", "avx2", "generic"]
    assert cpu_with("x86_64", f"{AVX512} avx512_vnni avx512_bf16 avx_vnni amx_tile amx_bf16 amx_int8") == [
        level.name for level in LEVELS if level.machine != "aarch64"
    ]
    assert cpu_with("aarch64", "asimd asimddp") == ["neon_dotprod", "generic"]
    assert cpu_with("aarch64", "asimd") == ["generic"]
    assert cpu_with("riscv64") == ["generic"]


def test_features_are_those_that_all_cores_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor: 0\nflags\t\t: sse2 avx2\n\nprocessor: 1\nflags\t\t: sse2 fma\n")
    monkeypatch.setattr(levels, "Path", lambda name: tmp_path / Path(name).name)
    assert cpu_features() == {"sse2"}
    (tmp_path / "cpuinfo").unlink()
    assert cpu_features() == frozenset()


def test_amx_is_a_feature_where_the_system_gives_its_registers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t\t: avx2 avx512_bf16 amx_tile amx_bf16 amx_int8\n")
    monkeypatch.setattr(levels, "Path", lambda name: tmp_path / Path(name).name)
    monkeypatch.setattr(levels, "_may_use_amx", lambda: False)
    assert cpu_features() == {"avx2"}
    monkeypatch.setattr(levels, "_may_use_amx", lambda: True)
    assert cpu_features() == {"avx2", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"}


def test_the_environment_names_a_level(cpu_with: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_with("x86_64", AVX2)
    monkeypatch.setenv(VARIABLE, "generic")
    assert [level.name for level in wanted_levels()] == ["generic"]
    for name in ("avx512", "avx1024"):
        monkeypatch.setenv(VARIABLE, name)
        with pytest.raises(LevelError, match=f"this CPU has the levels avx2, generic, got {name}"):
            wanted_levels()
        assert describe_library().startswith("none, HEADCOUNT_CPU_LEVEL: this CPU has")


def test_what_the_compiler_does_not_know_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def build_library(folder: Path, level: levels.Level) -> Path:
        if level.name != "generic":
            raise KernelBuildError(f"cc failed: unrecognized option {level.flags[-2]}")
        return folder / "generic.so"

    unknown = [level for level in LEVELS if level.name in ("avx512_vnni", "avx512", "avx2_vnni")]
    monkeypatch.setattr(build, "build_library", build_library)
    with caplog.at_level(logging.WARNING, logger=build.__name__):
        chosen, path = build_best(tmp_path, [*unknown, LEVELS[-1]])
    assert (chosen.name, path.name) == ("generic", "generic.so")
    assert "level generic is used, for avx512_vnni: cc failed: unrecognized option -mavx512vnni" in caplog.text
    with pytest.raises(KernelBuildError, match="-mavx512vnni"):
        build_best(tmp_path, unknown)


def test_the_library_says_its_level(level: str, native: Native) -> None:
    kernels, library = native(torch.float32), load_library()
    assert not isinstance(library, str)
    assert library.level == level
    assert kernels.name == f"cpu ({level})"
    assert describe_library() == level


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products(dtype: torch.dtype, level: str, native: Native) -> None:
    kernels = native(dtype)
    for num_rows, width, depth in ((1, 100, 64), (5, 37, 33), (13, 160, 96)):
        torch.manual_seed(depth)
        x, weight, bias = (torch.randn(shape).to(dtype) for shape in ((num_rows, depth), (width, depth), (width,)))
        packed = weight.clone()
        kernels.pack(packed)
        exact = x.double() @ weight.double().t() + bias.double()
        magnitude = x.double().abs() @ weight.double().abs().t() + bias.double().abs()
        bound = sum_eps(depth + 1) * magnitude + output_eps(dtype) * exact.abs() * 1.01
        assert_within(kernels.linear(x, packed, bias), exact, bound)
        assert torch.equal(kernels.gather_rows(packed, torch.arange(width)), weight)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_elementwise(dtype: torch.dtype, level: str, native: Native) -> None:
    torch.manual_seed(0)
    kernels, eps = native(dtype), 4 * output_eps(dtype) + 300 * 2.0**-24
    for width in (7, 64, 90):
        x, weight = torch.randn(9, width).to(dtype), torch.randn(width).to(dtype)
        exact = reference.rms_norm(x.double(), weight.double(), 1e-5)
        assert_within(kernels.rms_norm(x, weight, 1e-5), exact, eps * exact.abs())
        exact = reference.activate(x.double(), Activation.SILU)
        assert_within(kernels.activate(x, Activation.SILU), exact, eps * exact.abs())
        heads = torch.randn(9, 3, 2 * width).to(dtype)
        angles = torch.randn(9, width)
        exact = heads.double()
        reference.apply_rope(exact, angles.cos().double(), angles.sin().double())
        bound = eps * heads.double().abs().max()
        kernels.apply_rope(heads, angles.cos(), angles.sin())
        assert_within(heads, exact, bound.expand_as(exact))


@pytest.mark.parametrize("kv_dtype", LARGEST, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_quantizing_to_the_last_bit(dtype: torch.dtype, kv_dtype: torch.dtype, level: str, native: Native) -> None:
    torch.manual_seed(0)
    for head_dim in (1, 7, 64, 90):
        rows = torch.randn(40, 2, head_dim) * torch.logspace(-42, 38, 80).view(40, 2, 1)
        rows[0, 0], rows[1, 1] = 0.0, torch.finfo(dtype).max
        rows[2, 0, 0] = torch.inf
        rows[3] = torch.arange(head_dim) / 2  # ties
        caches = [empty_cache(head_dim, kv_dtype) for _ in range(2)]
        slots = torch.randperm(60)[:40]
        k, v = rows.to(dtype), rows.flip(0).to(dtype)
        native(dtype).store_kv(k, v, caches[0], slots)
        reference.store_kv(k, v, caches[1], slots)
        for actual, expected in zip(*caches, strict=True):
            assert actual is not None
            assert expected is not None
            assert torch.equal(actual.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("kv_dtype", LARGEST, ids=str)
def test_nan_is_seen_in_the_scale(kv_dtype: torch.dtype, level: str, native: Native) -> None:
    for place in (0, 5, 39):
        rows = torch.ones(1, 2, 40)
        rows[0, 1, place] = torch.nan
        cache = empty_cache(40, kv_dtype)
        native(torch.float32).store_kv(rows, rows, cache, torch.zeros(1, dtype=torch.int64))
        assert cache.k_scale is not None
        assert cache.k_scale.flatten()[:2].isnan().tolist() == [False, True]


def empty_cache(head_dim: int, kv_dtype: torch.dtype) -> LayerCache:
    numbers = [torch.zeros(20, 3, 2, head_dim, dtype=kv_dtype) for _ in "kv"]
    return LayerCache(*numbers, *(torch.zeros(20, 3, 2, dtype=SCALE_DTYPE) for _ in "kv"))
