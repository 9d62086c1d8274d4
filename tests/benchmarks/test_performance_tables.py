"""docs/performance.md says what the files in benchmarks/results say."""

import json
from pathlib import Path

import pytest

from benchmarks import performance_tables
from benchmarks.performance_tables import PAGE, TABLES, fill, section

PEERS = {
    "command": "python -m benchmarks.peers",
    "time": "2026-01-02T03:04:05Z",
    "machine": {"cores": 2, "cpu": "A Processor", "cpu_kernels": "avx2"},
    "in_process": [
        {
            "batch_size": 8,
            "prompt_tokens": 2000,
            "figures": {
                "headcount bf16": {"prefill_tokens_per_s": 1500.0, "decode_tokens_per_s": 30.0},
                "llama.cpp BF16": {"prefill_tokens_per_s": 1000.0, "decode_tokens_per_s": 20.0},
            },
            "ratios": {"llama.cpp BF16": {"prefill_tokens_per_s": 1.5, "decode_tokens_per_s": 1.5}},
        }
    ],
    "http": [{"streams": 32, "figures": {"headcount bf16": {"skipped": "no answer"}}, "ratios": {}}],
}


def test_the_page_is_what_the_results_say() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert fill(page) == page, "run python -m benchmarks.performance_tables"


def test_every_table_has_its_place() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in TABLES if f"<!-- begin {name} -->\n" not in page] == []


def test_a_peer_stands_with_the_ratio_of_ours_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance_tables, "RESULTS", tmp_path)
    assert section("peers-avx2") == "\nNot measured yet.\n"
    (tmp_path / "peers_avx2.json").write_text(json.dumps(PEERS))
    assert section("peers-avx2").splitlines() == [
        "",
        "`python -m benchmarks.peers`, 2026-01-02, 2 cores of A Processor (avx2):",
        "",
        "| figure | batch | context | headcount bf16 | llama.cpp BF16 |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| prefill tok/s | 8 | 2,000 | 1,500 | 1,000 (1.50x) |",
        "| decode tok/s | 8 | 2,000 | 30 | 20 (1.50x) |",
    ]
    assert "| output tok/s | 32 | skipped |" in section("peers-avx2-http")
