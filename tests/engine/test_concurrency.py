"""Fewer KV heads, more requests: the demo model as MHA, GQA and MQA on the same bytes, counted while it runs.

The weights are the demo's, of its first two layers: what a request takes in the KV cache does not depend on the others.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints.resolve import resolve_model
from engine.core import EngineCore
from tests.engine.tiny_models import make_request, prompt, run, tokens

pytestmark = pytest.mark.demo

NUM_LAYERS = 2
NUM_Q_HEADS, NUM_KV_HEADS, HEAD_DIM = 9, 3, 64
NUM_TOKENS, NUM_OUTPUT_TOKENS, BLOCK_SIZE = 512, 12, 16
BLOCKS_PER_REQUEST = NUM_TOKENS // BLOCK_SIZE
MHA_REQUEST_BYTES = NUM_TOKENS * NUM_LAYERS * 2 * NUM_Q_HEADS * HEAD_DIM * 2
VARIANTS = {9: 1, 3: 3, 1: 9}
"""KV heads -> how many times as many requests as with a KV head for every query head."""


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The demo model with 9, 3 (its own number) and 1 KV heads."""
    demo = resolve_model("demo")
    kept = tuple(f"model.layers.{layer_idx}." for layer_idx in range(NUM_LAYERS))
    tensors = {
        name: tensor
        for name, tensor in load_file(demo / "model.safetensors").items()
        if name.startswith(kept) or ".layers." not in name
    }
    config = json.loads((demo / "config.json").read_text()) | {"num_hidden_layers": NUM_LAYERS}
    folders = {}
    for num_kv_heads in VARIANTS:
        folder = folders[num_kv_heads] = tmp_path_factory.mktemp(f"kv-heads-{num_kv_heads}")
        (folder / "config.json").write_text(json.dumps(config | {"num_key_value_heads": num_kv_heads}))
        changed = {
            name: with_kv_heads(tensor, num_kv_heads) if "k_proj" in name or "v_proj" in name else tensor
            for name, tensor in tensors.items()
        }
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folders


def with_kv_heads(weight: torch.Tensor, num_kv_heads: int) -> torch.Tensor:
    """[3 * 64, hidden_size] -> [num_kv_heads * 64, hidden_size]: heads repeated, kept, or their mean."""
    heads = weight.unflatten(0, (NUM_KV_HEADS, HEAD_DIM))
    if num_kv_heads == 1:
        return heads.float().mean(0).to(weight.dtype)
    return heads.repeat_interleave(num_kv_heads // NUM_KV_HEADS, dim=0).flatten(0, 1).contiguous()


def most_at_once(core: EngineCore, num_requests: int) -> int:
    """How many of `num_requests` requests of 512 tokens ran at the same time, none of them preempted."""
    for number in range(num_requests):
        ids = prompt(NUM_TOKENS - NUM_OUTPUT_TOKENS, seed=number)
        core.add(make_request(str(number), ids, max_tokens=NUM_OUTPUT_TOKENS, ignore_eos=True))
    most = 0
    while not any(delta.finish_reason for delta in core.step()):
        stats = core.take_stats()
        most = max(most, stats.num_running)
        assert stats.preemptions == 0
    for number in range(num_requests):
        core.abort(str(number))
    return most


@pytest.mark.parametrize("kv_watermark", [0.0, pytest.param(0.05, marks=pytest.mark.soak)])
def test_the_same_bytes_hold_three_and_nine_times_as_many(
    variants: dict[int, Path], load: Callable[..., EngineCore], kv_watermark: float
) -> None:
    measured = {}
    for num_kv_heads, times in VARIANTS.items():
        core = load(
            variants[num_kv_heads],
            dtype="bfloat16",
            block_size=BLOCK_SIZE,
            kv_cache_memory_bytes=4 * MHA_REQUEST_BYTES,
            enable_prefix_cache=False,
            kv_watermark=kv_watermark,
            max_num_seqs=100,
            max_num_batched_tokens=8 * NUM_TOKENS,
            # Prompts go on being read while those before them decode.
            max_decode_slowdown=1000.0,
        )
        assert core.info.num_blocks == 4 * times * BLOCKS_PER_REQUEST
        measured[num_kv_heads] = most_at_once(core, 5 * times)
        usable = core.info.num_blocks - int(kv_watermark * core.info.num_blocks)
        assert measured[num_kv_heads] == usable // BLOCKS_PER_REQUEST
    if kv_watermark == 0.0:
        assert measured == {9: 4, 3: 12, 1: 36}


def test_repeated_heads_change_no_token(variants: dict[int, Path], load: Callable[..., EngineCore]) -> None:
    outputs = [
        tokens(run(load(variants[n], dtype="float32"), [make_request("r", prompt(50), ignore_eos=True)])["r"])
        for n in (9, 3)
    ]
    assert outputs[0] == outputs[1]
