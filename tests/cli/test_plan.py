"""`headcount plan`: the arithmetic, and that nothing but headers is read."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from checkpoints.headers import TensorHeader
from headcount import main
from server.cli.planning import Assumptions, make_plan

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
HEADERS = {"w": TensorHeader(name="w", dtype="BF16", shape=(4,), file=Path("w"), nbytes=8)}
GIB = 2**30


def assume(**changes: Any) -> Assumptions:
    given = {"memory_bytes": 2 * GIB, "dtype": "auto", "context_tokens": None, "block_size": 16} | changes
    return Assumptions(**given)


def test_the_numbers_of_a_known_model() -> None:
    plan = make_plan("smol", SMOLLM2, HEADERS, assume())
    assert plan.attention_type == "gqa"
    assert plan.kv_bytes_per_token == 23_040
    assert plan.kv_bytes_per_block == 16 * 23_040
    assert plan.num_parameters == 134_515_008
    assert plan.weights_bytes == 2 * 134_515_008
    assert plan.context_tokens == plan.max_model_len == 8192


def test_every_head_count_is_a_row_and_the_actual_one_is_marked() -> None:
    rows = make_plan("smol", SMOLLM2, HEADERS, assume()).rows
    assert [(row.label, row.attention_type, row.num_kv_heads, row.kv_bytes_per_token) for row in rows] == [
        ("what-if", "mha", 9, 69_120),
        ("actual", "gqa", 3, 23_040),
        ("what-if", "mqa", 1, 7_680),
    ]


def test_what_fits_fills_the_memory_with_whole_blocks() -> None:
    for row in make_plan("smol", SMOLLM2, HEADERS, assume(context_tokens=100)).rows:
        block_bytes = 16 * row.kv_bytes_per_token
        left = 2 * GIB - row.weights_bytes - row.workspace_bytes - row.kv_cache_bytes
        assert 0 <= left < block_bytes
        assert row.num_tokens == 16 * row.num_blocks
        assert row.kv_bytes_per_request == 7 * block_bytes
        assert row.num_requests == row.num_blocks // 7


def test_another_dtype_doubles_weights_and_cache() -> None:
    half, full = (make_plan("smol", SMOLLM2, HEADERS, assume(dtype=dtype)) for dtype in ("auto", "float32"))
    assert full.weights_bytes == 2 * half.weights_bytes
    assert full.kv_bytes_per_token == 2 * half.kv_bytes_per_token
    assert (half.dtype, full.dtype) == ("bfloat16", "float32")


def test_memory_below_the_weights_holds_nothing() -> None:
    for row in make_plan("smol", SMOLLM2, HEADERS, assume(memory_bytes=1000)).rows:
        assert (row.num_blocks, row.num_tokens, row.num_requests) == (0, 0, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint that is all header: data of the promised length, and nothing in it."""
    header = json.dumps({"w": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    return tmp_path


def test_it_prints_json_for_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(folder), "--memory", "2GiB", "--context", "512", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["kv_bytes_per_token"] == 23_040
    assert plan["memory_bytes"] == 2 * GIB
    assert [row["label"] for row in plan["rows"]] == ["what-if", "actual", "what-if"]


@pytest.mark.parametrize(
    ("arguments", "verdict"),
    [
        (["--memory", "2GiB"], "Fits: 9 requests of 8,192 tokens at once"),
        (["--memory", "500MB"], "the longest request that fits is 5,520 tokens. --max-model-len 5520 makes it fit"),
        (["--memory", "1MB"], "No one flag makes it fit, --memory 536MiB does."),
        (["--memory", "2GiB", "--dtype", "float64"], "--max-num-batched-tokens 512 makes it fit"),
        (["--memory", "700MiB", "--dtype", "float32", "--context", "8192"], "--dtype bfloat16 makes it fit"),
    ],
)
def test_it_says_what_fits(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], verdict: str
) -> None:
    assert main(["plan", str(folder), *arguments]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert verdict in printed
    assert "GQA: 9 query heads on 3 key/value heads of width 64, 30 layers" in printed


@pytest.mark.parametrize("memory_bytes", [1, 400_000_000, 500_000_000, 550_000_000])
def test_the_least_memory_is_the_least(memory_bytes: int) -> None:
    least = make_plan("smol", SMOLLM2, HEADERS, assume(memory_bytes=memory_bytes)).least_memory_bytes
    assert make_plan("smol", SMOLLM2, HEADERS, assume(memory_bytes=least)).fits
    assert not make_plan("smol", SMOLLM2, HEADERS, assume(memory_bytes=least - 2**20)).fits


LARGE = {
    **SMOLLM2,
    **{"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
    **{"num_attention_heads": 32, "num_key_value_heads": 4, "tie_word_embeddings": False},
}
"""About the size of Llama 3 8B, with 4 key/value heads."""


def test_what_each_of_several_devices_holds() -> None:
    plan = make_plan("large", LARGE, HEADERS, assume(memory_bytes=80 * GIB))
    rows = plan.tensor_parallel_rows
    assert [row.tensor_parallel for row in rows] == [1, 2, 4, 8]
    assert [row.kv_bytes_per_token // rows[3].kv_bytes_per_token for row in rows] == [4, 2, 1, 1], "heads are copied"
    replicated = 2 * 2 * 49152 * 4096 + 2 * 65 * 4096
    split = rows[0].weights_bytes - replicated
    copied = 32 * 2 * 2 * 4096 * 64  # key and value rows of the 8 devices' copies of 4 heads: half of them are double
    assert [row.weights_bytes - replicated for row in rows[:3]] == [split, split // 2, split // 4]
    assert rows[3].weights_bytes - replicated == split // 8 + copied
    assert rows[0].weights_bytes == plan.weights_bytes


def test_8_bit_weights_are_advised_on_a_cpu() -> None:
    assumptions = assume(memory_bytes=10 * GIB, context_tokens=8192)
    plan = make_plan("large", LARGE, HEADERS, assumptions)
    assert plan.advice is not None
    assert (plan.fits, plan.advice.flag, plan.advice.value) == (False, "--quantization", "int8")
    helped = make_plan("large", LARGE, HEADERS, msgspec.structs.replace(assumptions, quantization="int8"))
    assert helped.fits


def test_more_devices_are_advised_where_nothing_less_helps() -> None:
    assumptions = assume(memory_bytes=10 * GIB, context_tokens=8192, device="cuda")
    plan = make_plan("large", LARGE, HEADERS, assumptions)
    assert plan.advice is not None
    assert (plan.fits, plan.advice.flag, plan.advice.value) == (False, "--tensor-parallel", "2")
    helped = make_plan("large", LARGE, HEADERS, msgspec.structs.replace(assumptions, tensor_parallel=2))
    assert helped.fits


def test_a_cache_of_8_bits_is_advised_where_that_is_enough() -> None:
    config = {**LARGE, "num_key_value_heads": 32}
    given: dict[str, Any] = {"context_tokens": 8192, "max_num_batched_tokens": 64}
    memory_bytes = make_plan("mha", config, HEADERS, assume(**given)).least_memory_bytes - GIB
    plan = make_plan("mha", config, HEADERS, assume(memory_bytes=memory_bytes, **given))
    assert plan.advice is not None
    assert (plan.fits, plan.advice.flag, plan.advice.value) == (False, "--kv-cache-dtype", "int8")
    assert make_plan("mha", config, HEADERS, assume(memory_bytes=memory_bytes, kv_cache_dtype="int8", **given)).fits


def test_heads_that_cannot_be_divided_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(folder), "--tensor-parallel", "2"]) == 1
    assert "--tensor-parallel 2: 9 query heads cannot be divided among 2 devices" in capsys.readouterr().err


def test_without_memory_it_takes_what_this_machine_has(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory_bytes"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "3Q"], "--memory must be an amount of memory such as 512MiB"),
        (["--context", "0"], "--context"),
        (["--dtype", "int8"], "--dtype"),
    ],
)
def test_bad_flags_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["plan", str(folder), *arguments]) != 0
    assert message in capsys.readouterr().err


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(tmp_path)]) == 1
    assert "config.json" in capsys.readouterr().err


def test_8_bit_weights_are_counted_and_refused_on_a_gpu(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(folder), "--json", "--memory", "1GiB", "--quantization", "int8"]) == 0
    # 8 bits and a share of a scale for each weight; 61 norms of 576 numbers in bfloat16.
    num_weights = 134_515_008 - 61 * 576
    assert json.loads(capsys.readouterr().out)["weights_bytes"] == num_weights + num_weights // 64 * 2 + 61 * 576 * 2
    assert main(["plan", str(folder), "--quantization", "int8", "--device", "cuda"]) == 1
    assert "--quantization int8 runs on a CPU only, got --device cuda" in capsys.readouterr().err
