"""`headcount bench` against a server whose numbers are known."""

import json
import statistics
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from headcount import main
from server.cli.bench_load import LoadOptions, parse_slo
from server.cli.bench_report import _without_key
from server.load.summary import percentiles, sum_up
from server.load.times import LevelTimes, RequestTimes
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
        for latency in ("ttft_s", "itl_s", "tpot_s", "e2e_s"):
            assert list(level[latency]) == ["p50", "p90", "p95", "p99"]
        assert level["most_at_once"] == level["concurrency"]
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
    assert [LoadOptions().requests_of_rate(rate) for rate in (0.1, 2.0)] == [8, 60]
    assert LoadOptions(num_requests=3).requests_of_rate(2.0) == 3


@pytest.mark.parametrize("text", ["0", "1,x", "-1"])
def test_a_concurrency_that_makes_no_sense_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", f"--concurrency={text}"]) == 2
    assert "--concurrency must" in capsys.readouterr().err


@pytest.mark.parametrize("fail", ["break", "garble", "shorten"])
def test_an_answer_that_is_not_whole_counts_as_an_error(fake_server: FakeServer, fail: str) -> None:
    fake_server.fail = fail
    assert main(["bench", "--url", fake_server.url, "--concurrency", "1", "--num-requests", "2"]) == 1


def test_an_open_loop_sends_at_its_rate_whatever_becomes_of_earlier_requests(
    fake_server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.json"
    load = ["--request-rate", "100,200", "--num-requests", "20", "--max-tokens", "2", "--slo", "ttft=30,e2e=60"]
    assert main(["bench", "--url", fake_server.url, *load, "--json", str(file)]) == 0
    levels = json.loads(file.read_text())["levels"]
    assert [(level["concurrency"], level["request_rate"]) for level in levels] == [(None, 100.0), (None, 200.0)]
    for level in levels:
        assert (level["num_requests"], level["num_errors"]) == (20, 0)
        assert level["goodput"]["share"] == 1.0
        assert level["goodput"]["requests_per_s"] == pytest.approx(20 / level["wall_s"])
    assert "100 a second" in capsys.readouterr().out


def test_arrivals_are_poisson_and_the_same_for_the_same_seed() -> None:
    load = LoadOptions(num_requests=4000, seed=1)
    times_s = load.arrivals_s(2.0)
    gaps_s = [later - earlier for earlier, later in pairwise(times_s)]
    assert times_s[0] == 0.0
    assert times_s == load.arrivals_s(2.0) != LoadOptions(num_requests=4000, seed=2).arrivals_s(2.0)
    assert statistics.mean(gaps_s) == pytest.approx(0.5, rel=0.05)
    assert statistics.stdev(gaps_s) == pytest.approx(0.5, rel=0.05), "of an exponential distribution it is the mean"


def test_prompt_lengths_are_fixed_or_drawn_between_two_bounds() -> None:
    fixed, drawn = LoadOptions(prompt_tokens=5), LoadOptions(prompt_tokens=5, min_prompt_tokens=3)
    for load, lengths in ((fixed, {5}), (drawn, {3, 4, 5})):
        bodies = load.bodies("m", [1, 2])
        assert {len(next(bodies)["prompt"]) for _ in range(100)} == lengths


def test_bounds_in_the_wrong_order_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--prompt-tokens", "5", "--min-prompt-tokens", "6"]) == 2
    assert "--min-prompt-tokens must be at most --prompt-tokens (5), got 6" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf"])
def test_a_rate_that_makes_no_sense_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", f"--request-rate={text}"]) == 2
    assert "--request-rate must hold finite numbers above 0" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "ttft", "ttft=0", "ttft=x", "speed=1", "ttft=1,ttft=2"])
def test_an_slo_that_makes_no_sense_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", f"--slo={text}"]) == 2
    assert "--slo must" in capsys.readouterr().err


def test_a_request_is_good_only_if_it_meets_every_objective() -> None:
    fast = RequestTimes(ttft_s=0.1, itl_s=[0.01, 0.05], e2e_s=0.2, tpot_s=0.03, prompt_tokens=1, output_tokens=3)
    assert fast.meets(parse_slo("ttft=0.1,itl=0.05,tpot=0.03,e2e=0.2"))
    for name, limit in {"ttft": 0.09, "itl": 0.04, "tpot": 0.02, "e2e": 0.19}.items():
        assert not fast.meets({"ttft": 1.0, "itl": 1.0, "tpot": 1.0, "e2e": 1.0, name: limit})


def test_a_request_that_failed_did_not_meet_the_objective() -> None:
    fast = RequestTimes(ttft_s=0.1, itl_s=[], e2e_s=0.2, tpot_s=None, prompt_tokens=1, output_tokens=1)
    level = LevelTimes(concurrency=1, wall_s=2.0, completed=[fast], errors=Counter({"too long": 3}))
    goodput = sum_up(level, {"ttft": 0.5}).goodput
    assert goodput is not None
    assert (goodput.num_requests, goodput.share, goodput.requests_per_s) == (1, 0.25, 0.5)


def test_percentiles_lie_between_neighbours() -> None:
    assert percentiles([3.0, 1.0, 2.0]) == pytest.approx({"p50": 2.0, "p90": 2.8, "p95": 2.9, "p99": 2.98})
    assert percentiles([1.0]) == {"p50": 1.0, "p90": 1.0, "p95": 1.0, "p99": 1.0}
    assert percentiles([]) == {}


def test_the_key_stays_out_of_the_report() -> None:
    assert _without_key(["--api-key", "k", "--api-key=k", "--url", "u"]) == [
        "--api-key",
        "***",
        "--api-key=***",
        "--url",
        "u",
    ]
