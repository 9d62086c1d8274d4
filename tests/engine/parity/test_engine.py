"""Families with state of their own kind through the whole engine: crowd, chunks and preemption change no token (float64)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.checkpoint import read_checkpoint
from engine.core import EngineCore
from tests.engine.parity.oracles import build_oracle, save
from tests.engine.parity.rows import ROWS
from tests.engine.tiny_models import make_request, prompt, run, tokens

PROMPTS = [prompt(length, seed=length) for length in (17, 14, 11, 8)]
PARAMS = {"max_tokens": 20, "ignore_eos": True}
FEATURES = {
    "ALiBi": "Bloom",
    "learned positions": "OPT",
    "soft-caps and windows": "Gemma2",
    "two ropes": "Gemma3",
    "sinks": "GptOss",
    "experts": "Mixtral",
    "one KV head": "Falcon",
    "no positions in some layers": "SmolLM3",
    "the token before": "PicoLLM",
    "heads per layer": "OpenELM",
}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_crowd_changes_nothing(feature: str, tmp_path: Path, load: Callable[..., EngineCore]) -> None:
    row = next(row for name, row in ROWS.items() if name.startswith(f"{FEATURES[feature]}-"))
    folder = save(build_oracle(row), tmp_path)
    alone = [tokens(run(load(folder), [make_request("r", ids, **PARAMS)])["r"]) for ids in PROMPTS]
    geometry = read_checkpoint(folder).spec.kv_geometry(dtype_bytes=8, block_size=4)
    core = load(
        folder,
        max_num_batched_tokens=9,
        max_model_len=row.num_positions,
        # Room for two of the four: the others are preempted and computed again.
        kv_cache_memory_bytes=2 * geometry.num_blocks(row.num_positions) * geometry.bytes_per_block,
        enable_prefix_cache=False,
    )
    requests = [make_request(str(i), ids, **PARAMS) for i, ids in enumerate(PROMPTS)]
    together = run(core, requests)
    assert [tokens(together[str(i)]) for i in range(len(PROMPTS))] == alone
    assert sum(request.num_preemptions for request in requests) > 0
