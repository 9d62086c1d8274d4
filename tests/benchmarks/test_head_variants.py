"""Variants of a model with other numbers of key/value heads."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from benchmarks.head_variants import with_kv_heads, write_variant
from headcount import LLM, SamplingParams
from tests.engine.tiny_models import build_model, save_model


def test_repeated_heads_give_the_same_tokens_and_pooled_ones_load(tmp_path: Path) -> None:
    source = save_model(build_model("llama"), tmp_path / "source")
    Tokenizer(WordLevel({"a": 0}, "a")).save(str(source / "tokenizer.json"))
    params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
    outputs = {}
    for num_kv_heads in (6, 2, 1):
        folder = write_variant(source, tmp_path / str(num_kv_heads), num_kv_heads)
        llm = LLM(str(folder), dtype="float64", device="cpu", kv_cache_memory_bytes=4_000_000)
        assert {layer.num_kv_heads for layer in llm.info.geometry.layers} == {num_kv_heads}
        [generation] = llm.generate([[5, 6, 7, 8]], params)
        outputs[num_kv_heads] = generation.token_ids
    assert outputs[6] == outputs[2]
    assert len(outputs[1]) == 8


def test_pooled_heads_are_means() -> None:
    weight = torch.arange(8.0).view(4, 2)
    assert with_kv_heads(weight, 2, 1).tolist() == [[2.0, 3.0], [4.0, 5.0]]
    with pytest.raises(ValueError, match="neither"):
        with_kv_heads(weight, 2, 3)
