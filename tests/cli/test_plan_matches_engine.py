"""The plan, made from headers alone, and the engine that has loaded the model say the same numbers."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from configs.engine import EngineSettings
from configs.fields import with_overrides
from engine.info import EngineInfo
from engine.loading import load_engine
from server.cli.planning import Assumptions, Plan, plan_folder
from tests.engine.tiny_models import build_model, save_model

KV_BYTES = 40_000_000
"""Enough for all requests of a step at the longest context: so the workspace is the same whatever else fits."""


def load_and_plan(
    family: str, folder: Path, dtype: str, kv_cache_dtype: str, quantization: str = "none"
) -> tuple[EngineInfo, Plan]:
    save_model(build_model(family), folder)
    overrides: dict[str, Any] = {"dtype": dtype, "device": "cpu", "kv_cache_memory_bytes": KV_BYTES, "block_size": 8}
    overrides |= {"kv_cache_dtype": kv_cache_dtype, "quantization": quantization}
    info = load_engine(folder, with_overrides(EngineSettings(), overrides, "test")).info
    assumptions = Assumptions(
        memory_bytes=10**9,
        dtype=dtype,
        context_tokens=None,
        block_size=8,
        kv_cache_dtype=kv_cache_dtype,
        quantization=quantization,
    )
    roomy = plan_folder("tiny", folder, assumptions)
    memory_bytes = roomy.weights_bytes + roomy.workspace_bytes + KV_BYTES
    return info, plan_folder("tiny", folder, msgspec.structs.replace(assumptions, memory_bytes=memory_bytes))


FORMATS = [("auto", "auto", "none"), ("bfloat16", "auto", "none"), ("bfloat16", "int8", "none")]
FORMATS += [("bfloat16", "auto", "int8"), ("float64", "auto", "int8")]
"""Of the model, of its KV cache, and of its weights."""


@pytest.mark.parametrize(("dtype", "kv_cache_dtype", "quantization"), FORMATS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_plan_and_engine_agree_to_the_byte(
    family: str, dtype: str, kv_cache_dtype: str, quantization: str, tmp_path: Path
) -> None:
    info, plan = load_and_plan(family, tmp_path, dtype, kv_cache_dtype, quantization)
    actual = next(row for row in plan.rows if row.label == "actual")
    assert plan.weights_bytes == actual.weights_bytes == info.ledger.weights_bytes
    assert plan.kv_bytes_per_token == info.geometry.bytes_per_token
    assert plan.kv_bytes_per_block == info.geometry.bytes_per_block
    assert actual.num_blocks == info.num_blocks
    assert actual.kv_cache_bytes == info.ledger.kv_cache_bytes
    assert (plan.dtype, plan.max_model_len) == (info.dtype, info.max_model_len)
    assert (plan.kv_cache_dtype, plan.quantization) == (info.kv_cache_dtype, info.quantization)
    assert plan.attention_type == info.geometry.attention_type
    what_if = [geometry.bytes_per_token for geometry in info.geometry.what_if()]
    assert [row.kv_bytes_per_token for row in plan.rows] == what_if
