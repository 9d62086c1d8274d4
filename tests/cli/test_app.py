"""The command line as a whole: help, versions, and mistakes in settings wherever they come from."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.serve import ServeSettings
from headcount import main
from server.cli.app import build_app

ROOT = Path(__file__).parents[2]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ServeSettings]:
    """Parses the flags of `serve` without serving."""

    def parse_flags(*flags: str, **environ: str) -> ServeSettings:
        for name, text in environ.items():
            monkeypatch.setenv(name, text)
        _, bound, _ = build_app().parse_args(["serve", *flags], exit_on_error=False, print_error=False)
        settings: ServeSettings = bound.arguments.get("settings", ServeSettings())
        return settings

    return parse_flags


def test_flags_beat_environment_beats_file_beats_preset(parse: Callable[..., ServeSettings], tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("max_num_seqs = 3\nmax_num_waiting = 3\nmax_num_batched_tokens = 3\n")
    settings = parse(
        *("--config", str(file), "--preset", "cpu", "--max-num-seqs", "1"),
        HEADCOUNT_MAX_NUM_SEQS="2",
        HEADCOUNT_MAX_NUM_WAITING="2",
    )
    scheduler, cache = settings.engine.scheduler, settings.engine.cache
    assert (scheduler.max_num_seqs, scheduler.max_num_waiting, scheduler.max_num_batched_tokens) == (1, 2, 3)
    assert cache.cpu_memory_utilization == 0.5
    assert settings.http == ServeSettings().http


def test_file_and_preset_can_be_named_in_the_environment(parse: Callable[..., ServeSettings], tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("port = 3\n")
    settings = parse(HEADCOUNT_CONFIG=str(file), HEADCOUNT_PRESET="h200")
    assert settings.http.port == 3
    assert settings.engine.model_settings.device == "cuda"


def test_a_file_may_hold_a_table_for_each_model(parse: Callable[..., ServeSettings], tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(
        'dtype = "float32"\n[models."v1.0"]\npath = "/data/big"\nmax_num_seqs = 2\nenable_prefix_cache = false\n'
    )
    (entry,) = parse("--config", str(file)).entries()
    assert (entry.name, entry.source) == ("v1.0", "/data/big")
    assert entry.settings.scheduler.max_num_seqs == 2
    assert not entry.settings.cache.enable_prefix_cache
    assert entry.settings.model_settings.dtype == "float32"


def test_models_flags_and_sizes(parse: Callable[..., ServeSettings]) -> None:
    settings = parse(
        "--model", "demo", "--model", "b=/x", "--kv-cache-memory-bytes", "1GiB", "--no-enable-prefix-cache"
    )
    assert [entry.name for entry in settings.entries()] == ["demo", "b"]
    assert settings.engine.cache.kv_cache_memory_bytes == 2**30
    assert not settings.engine.cache.enable_prefix_cache


def test_models_can_be_named_without_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    def load(name: str, folder: Path, *_: object) -> None:
        seen[name] = str(folder)

    monkeypatch.setattr("checkpoints.resolve.resolve_model", Path)
    monkeypatch.setattr("server.served_model.load_served_model", load)
    monkeypatch.setattr("engine.child.EngineChild", object)
    monkeypatch.setattr("server.run.serve", lambda *given: 0)
    assert main(["serve", "demo", "small=/a", "--model", "big=/b", "--preset", "demo"]) == 0
    assert seen == {"demo": "demo", "small": "/a", "big": "/b"}, "the preset's own model is not among them twice"
    seen.clear()
    assert main(["serve", "small=/a", "--preset", "demo"]) == 0
    assert seen == {"small": "/a"}
    assert main(["serve", "demo", "demo=/a"]) != 0


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("flags", "environ", "text", "problem"),
    [
        (["--prot", "1"], {}, "", "Unknown option: --prot. Did you mean --port?"),
        (["--port", "99999"], {}, "", "--port must be at most 65535, got 99999"),
        (["--dtype=int8"], {}, "", "--dtype must be one of 'auto', 'bfloat16', 'float16', 'float32' or 'float64'"),
        (["--preset", "gpu"], {}, "", "unknown preset gpu"),
        ([], {"HEADCOUNT_PROT": "1"}, "", "unknown variable HEADCOUNT_PROT (did you mean HEADCOUNT_PORT?)"),
        ([], {"HEADCOUNT_PORT": "x"}, "", "HEADCOUNT_PORT must be a whole number, got x"),
        ([], {}, "prot = 1", "unknown setting prot in FILE (did you mean port?)"),
        ([], {}, "port = -1", "port in FILE must be at least 0, got -1"),
        ([], {}, "[models.a]\nblok_size = 1", "unknown setting blok_size in [models.a] (did you mean block_size?)"),
        ([], {}, "[models.a]\nblock_size = 0", "block_size in [models.a] must be at least 1, got 0"),
        (["--host", "0.0.0.0"], {}, "", "host 0.0.0.0 can be reached from other machines"),
        (["--kv-cache-memory-bytes", "many"], {}, "", "--kv-cache-memory-bytes must be an amount of memory"),
        (["--model=/a/x", "--model=/b/x"], {}, "", "two models are served as x"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_and_where(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    environ: dict[str, str],
    text: str,
    problem: str,
) -> None:
    file = write(tmp_path / "serve.toml", text)
    for name, given in environ.items():
        monkeypatch.setenv(name, given)
    assert main(["serve", "--config", file, *flags]) == 2
    error = capsys.readouterr().err
    lines = error.splitlines()
    assert lines[0].startswith(f"headcount: {problem.replace('FILE', file)}")
    assert lines[1:] == ["headcount: see `headcount serve --help`"]
    assert "pydantic" not in error


def test_every_problem_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "-1", "--block-size", "0"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_misspelt_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["srve"]) == 2
    assert 'Did you mean "serve"?' in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "import", "chat", "plan", "bench", "heads"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: headcount {command}")


def test_the_settings_are_grouped_by_concern(capsys: pytest.CaptureFixture[str]) -> None:
    main(["serve", "--help"])
    page = capsys.readouterr().out
    places = [page.index(f"╭─ {title} ─") for title in ("Model", "KV cache", "Scheduler", "HTTP")]
    assert places == sorted(places)


def run_python(code: str) -> Any:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)


def test_the_command_line_loads_no_tensor_library() -> None:
    code = "import sys, headcount; headcount.main(['serve', '--help']); print('LOADED', 'torch' in sys.modules)"
    assert run_python(code).stdout.endswith("LOADED False\n")


def test_help_comes_at_once() -> None:
    """By the processor's time: on a busy machine the clock tells of others."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_python("import headcount; headcount.main(['--help'])")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 1.5, "it takes 0.4 s; something slow is imported early"
