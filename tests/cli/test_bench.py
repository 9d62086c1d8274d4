"""`headcount bench` against a server whose numbers are known."""

import json
from pathlib import Path

import pytest

from headcount import main
from server.cli.bench import LoadOptions
from server.cli.bench_report import _without_key, percentiles
from tests.cli.conftest import FakeServer


def test_it_counts_tokens_by_usage_and_writes_where_they_come_from(
    fake_server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.json"
    load = ["--concurrency", "1,3", "--num-requests", "5", "--prompt-tokens", "7", "--max-tokens", "12"]
    assert main(["bench", "--url", fake_server.url, "--model", "other", *load, "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert [level["concurrency"] for level in report["levels"]] == [1, 3]
    for level in report["levels"]:
        assert (level["num_requests"], level["num_errors"]) == (5, 0)
        assert (level["prompt_tokens"], level["output_tokens"]) == (35, 60)
        assert list(level["ttft_s"]) == list(level["itl_s"]) == ["p50", "p90", "p99"]
        assert level["output_tokens_per_s"] == pytest.approx(60 / level["wall_s"])
    assert report["model"] == {"id": "other"}
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["server"] == "9"
    table = capsys.readouterr().out
    assert "other: 7 prompt tokens, 12 output tokens" in table


def test_it_warms_up_first_and_never_sends_a_prompt_twice(fake_server: FakeServer) -> None:
    assert main(["bench", "--url", fake_server.url, "--concurrency", "2", "--num-requests", "4"]) == 0
    requests = [body for body in fake_server.received if "max_tokens" in body]
    assert [body["max_tokens"] for body in requests] == [8, 8, 64, 64, 64, 64]
    assert len({tuple(body["prompt"]) for body in requests}) == 6
    for body in requests:
        assert body["ignore_eos"]
        assert body["stream_options"] == {"include_usage": True}
        assert set(body["prompt"]) <= {3, 4, 5}


def test_failed_requests_are_counted_and_said(fake_server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake_server.fail = "refuse"
    assert main(["bench", "--url", fake_server.url, "--concurrency", "2", "--num-requests", "3"]) == 1
    captured = capsys.readouterr()
    assert "3 errors at 2 at once: too long [HTTP 400]" in captured.out
    assert "no request was completed" in captured.err


def test_an_unknown_model_is_refused_with_those_that_are(
    fake_server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--url", fake_server.url, "--model", "big"]) == 1
    assert "no model big is served there; there are: fake-model, other" in capsys.readouterr().err


def test_without_a_server_it_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--url", "http://127.0.0.1:9"]) == 1
    assert "headcount serve" in capsys.readouterr().err


def test_unless_told_otherwise_requests_grow_with_the_concurrency() -> None:
    assert [LoadOptions().requests_at(concurrency) for concurrency in (1, 2, 8)] == [8, 8, 32]
    assert LoadOptions(num_requests=3).requests_at(8) == 3


@pytest.mark.parametrize("text", ["0", "1,x", "-1"])
def test_a_concurrency_that_makes_no_sense_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", f"--concurrency={text}"]) == 2
    assert "--concurrency must" in capsys.readouterr().err


def test_percentiles_lie_between_neighbours() -> None:
    assert percentiles([3.0, 1.0, 2.0]) == pytest.approx({"p50": 2.0, "p90": 2.8, "p99": 2.98})
    assert percentiles([1.0]) == {"p50": 1.0, "p90": 1.0, "p99": 1.0}
    assert percentiles([]) == {}


def test_the_key_stays_out_of_the_report() -> None:
    assert _without_key(["--api-key", "k", "--api-key=k", "--url", "u"]) == [
        "--api-key",
        "***",
        "--api-key=***",
        "--url",
        "u",
    ]
