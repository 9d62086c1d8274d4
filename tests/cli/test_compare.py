"""`headcount compare`: its settings, its table and its picture."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from configs.compare import CompareSettings
from headcount import main
from server.cli import compare_run
from server.cli.app import build_app
from server.cli.compare_plot import draw_comparison
from server.cli.compare_tables import print_comparison
from server.compare.plan import Job
from server.compare.report import Comparison, TokenAgreement
from tests.server.compare.small_jobs import make_comparison, make_job, write_model


def parse(*flags: str) -> CompareSettings:
    _, bound, _ = build_app().parse_args(["compare", *flags], exit_on_error=False, print_error=False)
    settings: CompareSettings = bound.arguments.get("settings", CompareSettings())
    return settings


def test_flags_beat_file_beats_preset(tmp_path: Path) -> None:
    file = tmp_path / "compare.toml"
    file.write_text("concurrency = 3\nmax_tokens = 5\n")
    settings = parse("--kv-heads", "9,3", "--max-tokens", "7", "--config", str(file), "--preset", "compare")
    assert settings.num_kv_heads == (9, 3)
    assert (settings.workload.max_tokens, settings.workload.concurrency, settings.workload.num_requests) == (7, 3, 32)
    assert settings.dtype == "bfloat16"


def test_the_preset_is_whole() -> None:
    settings = parse("--preset", "compare")
    assert (settings.model, settings.num_kv_heads, settings.kv_cache_memory_bytes) == ("demo", (9, 3, 1), 64 << 20)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--kv-heads", "0"], "must hold numbers of at least 1, got 0"),
        (["--kv-heads", "9,x"], "x"),
        (["--max-tokens", "1"], "--max-tokens must be at least 2, got 1"),
        (["--preset", "cpu"], "unknown preset cpu; there are: compare"),
        (["--method", "best"], "--method"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *flags]) == 2
    assert said in capsys.readouterr().err


def test_heads_that_cannot_be_had_end_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_run, "Tokenizer", lambda folder: FakeTokenizer())
    assert main(["compare", str(write_model(tmp_path)), "--kv-heads", "2"]) == 1


class FakeTokenizer:
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [3, 4, 5]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command; what compares is made up."""
    folder = write_model(tmp_path / "smol")
    monkeypatch.setattr(compare_run, "Tokenizer", lambda folder: FakeTokenizer())

    def run_command(*flags: str, change: Callable[[Comparison], Comparison] = lambda comparison: comparison) -> int:
        async def run_comparison(job: Job, on_event: Any) -> Comparison:
            return change(make_comparison(job))

        monkeypatch.setattr(compare_run, "run_comparison", run_comparison)
        return main(["compare", str(folder), "--num-requests", "2", *flags])

    return run_command


def test_the_result_is_shown_written_and_drawn(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, picture = tmp_path / "compare.json", tmp_path / "compare.png"
    assert run("--kv-heads", "9,3,1", "--json", str(file), "--plot", str(picture)) == 0
    table = capsys.readouterr().out
    assert "smol: 64.0 MiB of KV cache for each variant" in table
    assert "MQA, 1 KV head: 2 of 2 answers differ from the source's" in table
    report = json.loads(file.read_text())
    assert [variant["planned"]["num_kv_heads"] for variant in report["variants"]] == [9, 3, 1]
    assert report["settings"]["workload"]["num_requests"] == 2
    assert report["command"].startswith("headcount")
    head = picture.read_bytes()[:24]
    width, height = struct.unpack(">II", head[16:24])
    assert head.startswith(b"\x89PNG")
    assert 1.5 < width / height < 2.5
    assert width >= 1920


def test_tokens_that_must_be_the_sources_and_are_not_fail_the_command(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(comparison: Comparison) -> Comparison:
        mha, *others = comparison.variants
        spoilt = msgspec.structs.replace(mha, tokens=TokenAgreement(True, 1, 2, 0.5))
        return msgspec.structs.replace(comparison, variants=[spoilt, *others])

    assert run(change=spoil) == 1
    captured = capsys.readouterr()
    assert "repeated heads must give the source's tokens" in captured.err
    assert "1 of 2 answers differ" in captured.out


def shown(comparison: Comparison, width: int = 80) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    print_comparison(comparison, console)
    return console.export_text().splitlines()


def test_the_table_fits_80_columns_with_any_number_of_variants(tmp_path: Path) -> None:
    comparison = make_comparison(make_job(tmp_path))
    lines = shown(comparison)
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["reached,", "none", "preempted", "3", "11", "34"] for line in lines)
    many = msgspec.structs.replace(comparison, variants=comparison.variants * 2)
    lines = shown(many)
    assert sum("tokens that fit" in line for line in lines) == 2
    assert not any("…" in line for line in lines)


def test_other_load_is_said(tmp_path: Path) -> None:
    text = " ".join(" ".join(shown(make_comparison(make_job(tmp_path), num_other_requests=5))).split())
    assert "The server took 5 other requests meanwhile" in text
    assert "Its heads were joined: without further training it is another, worse model." in text


@pytest.mark.parametrize("heads", [(8, 8), (64, 8)])
def test_any_number_of_heads_can_be_drawn(tmp_path: Path, heads: tuple[int, int]) -> None:
    num_q_heads, num_kv_heads = heads
    job = make_job(tmp_path / "model")
    variants = [
        msgspec.structs.replace(
            variant,
            planned=msgspec.structs.replace(variant.planned, num_q_heads=num_q_heads, num_kv_heads=num_kv_heads),
        )
        for variant in make_comparison(job).variants
    ]
    draw_comparison(msgspec.structs.replace(make_comparison(job), variants=variants), tmp_path / "heads.png")
    assert (tmp_path / "heads.png").stat().st_size > 10_000
