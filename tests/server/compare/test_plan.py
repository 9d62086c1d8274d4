"""What is planned, and what is refused before anything is done."""

from pathlib import Path
from typing import Any

import pytest

from configs.compare import CompareSettings, Workload
from configs.engine import EngineSettings
from server.compare.errors import ComparisonRefusedError
from server.compare.plan import MAX_AT_ONCE, SPARE_PLACES, plan_comparison
from tests.server.compare.small_jobs import WORKLOAD, make_job, write_model


def test_unless_told_otherwise_mha_the_models_own_and_mqa_are_compared(tmp_path: Path) -> None:
    rows = [
        (v.attention_type, v.num_kv_heads, v.method, v.kv_bytes_per_token, v.num_tokens, v.num_requests)
        for v in make_job(tmp_path).variants
    ]
    assert rows == [
        ("mha", 9, "repeat", 69_120, 960, 3),
        ("gqa", 3, "source", 23_040, 2_912, 11),
        ("mqa", 1, "mean", 7_680, 8_736, 34),
    ]


def test_every_pool_is_as_large_as_whole_blocks_allow(tmp_path: Path) -> None:
    for variant in make_job(tmp_path).variants:
        block = 16 * variant.kv_bytes_per_token
        assert variant.kv_cache_bytes == variant.num_blocks * block
        assert 0 <= 64 * 2**20 - variant.kv_cache_bytes < block
        assert variant.blocks_per_request == 16


def test_the_models_own_number_is_always_among_them(tmp_path: Path) -> None:
    job = make_job(tmp_path, num_kv_heads="1", method="aligned")
    assert [(variant.num_kv_heads, variant.method) for variant in job.variants] == [(3, "source"), (1, "aligned")]
    assert [variant.is_exact for variant in job.variants] == [True, False]


def test_engines_get_the_same_budget_and_a_place_for_each_request_that_could_fit(tmp_path: Path) -> None:
    engine = make_job(tmp_path).engine
    assert engine.cache.kv_cache_memory_bytes == 64 * 2**20
    assert engine.cache.enable_prefix_cache
    assert engine.scheduler.max_num_seqs == 34 + SPARE_PLACES
    assert engine.model_settings.max_model_len == WORKLOAD.request_tokens == 256


def test_the_tokens_of_a_comparison_are_known_before_it_runs(tmp_path: Path) -> None:
    job = make_job(tmp_path, num_kv_heads=(3,))
    assert job.num_tokens == 256 * (2 * 11 + 1 + 4)


@pytest.mark.parametrize(
    ("settings", "param", "message"),
    [
        (
            {"num_kv_heads": (2,)},
            "num_kv_heads",
            "9 query heads on 3 key/value heads cannot be had on 2: possible are 9, 3, 1",
        ),
        ({"kv_cache_memory_bytes": "17MB"}, "kv_cache_memory_bytes", "with 9 key/value heads needs 17694720 bytes"),
        ({"kv_cache_memory_bytes": "8GiB"}, "kv_cache_memory_bytes", f"at most {MAX_AT_ONCE} are measured"),
        ({"workload": Workload(prompt_tokens=8190)}, "prompt_tokens", "holds 8192 tokens, but prompt_tokens is 8190"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_numbers(
    tmp_path: Path, settings: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(ComparisonRefusedError, match=message.replace("(", r"\(")) as caught:
        make_job(tmp_path, **settings)
    assert caught.value.param == param


def test_heads_that_would_need_both_repeating_and_pooling_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path, num_attention_heads=12, num_key_value_heads=4, hidden_size=768)
    with pytest.raises(ComparisonRefusedError, match="possible are 12, 4, 2, 1"):
        plan_comparison(CompareSettings(num_kv_heads=(6,)), folder, EngineSettings(), [3])


def test_more_variants_than_a_person_reads_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path, num_attention_heads=64, num_key_value_heads=8, hidden_size=4096)
    counts = (64, 32, 16, 8, 4, 2, 1)
    assert (
        len(
            plan_comparison(
                CompareSettings(num_kv_heads=counts, kv_cache_memory_bytes="1GiB"), folder, EngineSettings(), [3]
            ).variants
        )
        == 7
    )
    folder = write_model(tmp_path, num_attention_heads=256, num_key_value_heads=16, hidden_size=4096)
    with pytest.raises(ComparisonRefusedError, match="at most 8 variants are compared, got 9"):
        settings = CompareSettings(num_kv_heads=tuple(2**power for power in range(9)), kv_cache_memory_bytes="1GiB")
        plan_comparison(settings, folder, EngineSettings(), [3])


def test_layers_that_differ_have_no_number_to_compare(tmp_path: Path) -> None:
    folder = write_model(
        tmp_path,
        architectures=["OpenELMForCausalLM"],
        model_type="openelm",
        model_dim=256,
        head_dim=64,
        num_transformer_layers=2,
        num_query_heads=[4, 8],
        num_kv_heads=[1, 2],
        ffn_multipliers=[1.0, 1.0],
        ffn_dim_divisor=64,
        max_context_length=2048,
    )
    with pytest.raises(ComparisonRefusedError, match="different numbers of heads"):
        plan_comparison(CompareSettings(), folder, EngineSettings(), [3])
