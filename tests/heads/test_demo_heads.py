"""Real weights: more heads with the same tokens, and attention as transformers computes it."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoints.demo import fetch_demo
from engine.observing import attention_weights
from headcount import LLM, SamplingParams
from heads.convert import convert_heads
from heads.subject import load_subject

pytestmark = pytest.mark.demo

MAX_WEIGHT_ERROR = 1e-4
TEXT = (
    "The capital of France is Paris. It lies on the river Seine, and more than two million people live there; the river"
    " divides the city into a left and a right bank. The capital of France is"
)
PROMPTS = [
    "The",
    "The capital of France is",
    "1, 1, 2, 3, 5, 8, 13,",
    "Once upon a time, in a village by the sea,",
    "Q: Why is the sky blue?\nA:",
    "To be, or not to be, that is the question:",
    "naïve café — “déjà vu”, Ωμέγα, Привет",
    "日本の首都は東京です。中国の首都は",
    "def quicksort(values: list[int]) -> list[int]:\n",
    "SELECT name, COUNT(*) FROM users WHERE created_at > '2024-01-01' GROUP BY",
    "Dear Sir or Madam,\n\nI am writing to",
    "The three laws of motion are:\n1.",
    "import numpy as np\n\n",
    "In 1969, the first human being",
    "A recipe for bread: take flour, water,",
    "<html>\n<head>\n<title>",
]


@pytest.fixture(scope="module")
def expanded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with a key/value head for each of its 9 query heads, from 3."""
    folder = tmp_path_factory.mktemp("mha") / "demo"
    assert convert_heads(fetch_demo(), folder, 9).is_exact
    return folder


def generate(model: str, prompts: list[str], num_tokens: int) -> tuple[list[list[int]], int]:
    """Greedy tokens of each prompt, and the bytes that a token takes in the cache."""
    llm = LLM(model, dtype="float32", max_model_len=256, kv_cache_memory_bytes=600_000_000, enable_prefix_cache=False)
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    outputs = llm.generate(prompts, params, show_progress=False)
    return [output.token_ids for output in outputs], llm.info.geometry.bytes_per_token


@pytest.mark.parametrize(
    ("num_prompts", "num_tokens"), [(3, 12), pytest.param(len(PROMPTS), 64, marks=pytest.mark.soak)]
)
def test_repeated_heads_give_the_same_tokens_for_three_times_the_bytes(
    expanded: Path, num_prompts: int, num_tokens: int
) -> None:
    before, bytes_before = generate("demo", PROMPTS[:num_prompts], num_tokens)
    after, bytes_after = generate(str(expanded), PROMPTS[:num_prompts], num_tokens)
    assert after == before
    assert bytes_after == 3 * bytes_before


def test_attention_equals_transformers() -> None:
    subject = load_subject(fetch_demo())
    [ids] = subject.windows(TEXT, 64)
    expected = of_transformers(fetch_demo(), ids)
    for layer_idx, (weights, wanted) in enumerate(zip(attention_weights(subject.decoder, ids), expected, strict=True)):
        worst = float((weights - wanted[0]).abs().max())
        assert worst < MAX_WEIGHT_ERROR, f"layer {layer_idx}: off by {worst}"


@torch.no_grad()
def of_transformers(folder: Path, ids: list[int]) -> Any:
    """A layer each [1, num_q_heads, seq_len, seq_len]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model(torch.tensor([ids]), output_attentions=True).attentions
