"""Tokens beside the source's, and a result as JSON and back."""

from pathlib import Path

import msgspec
import pytest

from server.compare.errors import ComparisonError
from server.compare.report import Comparison, compare_tokens, report_variant
from server.compare.run import check_tokens
from tests.server.compare.small_jobs import make_comparison, make_job, make_measured


def test_tokens_count_up_to_the_first_difference(tmp_path: Path) -> None:
    mha, _, mqa = make_job(tmp_path).variants
    found = compare_tokens(mqa, [[1, 2, 3, 4], [1, 9, 3, 4], [9, 2, 3, 4]], [[1, 2, 3, 4]] * 3)
    assert (found.num_equal_requests, found.num_requests, found.equal_token_share) == (1, 3, 5 / 12)
    assert not found.is_equal
    assert not found.is_expected
    same = compare_tokens(mha, [[1, 2]], [[1, 2]])
    assert (same.is_equal, same.is_expected, same.equal_token_share) == (True, True, 1.0)


def test_repeated_heads_that_give_other_tokens_are_an_error(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    comparison = make_comparison(job)
    check_tokens(comparison)
    wrong = report_variant(job.variants[0], make_measured(3, [[1, 2], [1, 2]]), [[1, 2], [1, 3]])
    with pytest.raises(ComparisonError, match=r"MHA, 9 KV heads: .* 1 of 2 answers are others"):
        check_tokens(msgspec.structs.replace(comparison, variants=[wrong]))


def test_a_result_says_where_it_comes_from_and_survives_json(tmp_path: Path) -> None:
    comparison = make_comparison(make_job(tmp_path / "smol"), num_other_requests=2)
    assert comparison.checkpoint == "smol"
    assert comparison.settings["workload"]["num_requests"] == 4
    assert comparison.machine["cores"] >= 1
    assert [variant.num_requests_reached for variant in comparison.variants] == [3, 11, 34]
    assert msgspec.json.decode(msgspec.json.encode(comparison), type=Comparison) == comparison
