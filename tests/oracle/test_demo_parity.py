"""Real weights: headcount against transformers on the imported demo model, in float32."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoints.demo import fetch_demo
from engine.request import TokenLogprobs
from headcount import LLM, Generation, SamplingParams

pytestmark = pytest.mark.demo

NUM_TOKENS = 64
MAX_LOGPROB_ERROR = 1e-4

LONG_TEXT = Path(__file__).parents[2] / "LICENSE"
CODE = '''def quicksort(values: list[int]) -> list[int]:
    """Sort by divide and conquer."""
    if len(values) < 2:
        return values
    pivot, *rest = values
'''
TEXTS = [
    "The",
    "The capital of France is",
    "1, 1, 2, 3, 5, 8, 13,",
    "Once upon a time, in a village by the sea,",
    "Q: Why is the sky blue?\nA:",
    "To be, or not to be, that is the question:",
    "naïve café — “déjà vu”, Ωμέγα, Привет",
    "日本の首都は東京です。中国の首都は",
    "🌍🚀✨ emoji and e\u0301 combining marks 👩\u200d👩\u200d👧",
    "\n\n\t  leading white space and   runs   of it",
    CODE,
    "SELECT name, COUNT(*) FROM users WHERE created_at > '2024-01-01' GROUP BY",
]
CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": "Which planet is the largest?"},
        {"role": "assistant", "content": "Jupiter"},
        {"role": "user", "content": "And the smallest?"},
    ],
]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("demo", dtype="float32", device="cpu", kv_cache_memory_bytes=1 << 30)


@pytest.fixture(scope="module")
def oracle() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(fetch_demo(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prompts(llm: LLM) -> list[list[int]]:
    """16 prompts: short, 500 tokens, unicode, code, chat."""
    long = llm.tokenizer.encode(LONG_TEXT.read_text(), add_special_tokens=True)
    chats = [llm.tokenizer.encode(llm.render(messages), add_special_tokens=False) for messages in CHATS]
    return [
        *(llm.tokenizer.encode(text, add_special_tokens=True) for text in TEXTS),
        long[:500],
        long[700:1200],
        *chats,
    ]


@pytest.fixture(scope="module")
def generations(llm: LLM, prompts: list[list[int]]) -> list[Generation]:
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=0)
    return llm.generate(prompts, params, show_progress=False)


@pytest.fixture(scope="module")
def expected(
    oracle: Any, prompts: list[list[int]], generations: list[Generation]
) -> list[tuple[list[int], torch.Tensor]]:
    """What transformers takes for the likeliest token at each place of our answers, and the log-probabilities of ours.

    One pass over prompt and answer, which is as good as its own greedy search: where the first n tokens are the same, so is
    what it sees before it chooses the next.
    """
    results = []
    for prompt, generation in zip(prompts, generations, strict=True):
        tokens = torch.tensor(generation.token_ids)
        with torch.inference_mode():
            logits = oracle(torch.tensor([[*prompt, *generation.token_ids]])).logits[0, len(prompt) - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(1, tokens.unsqueeze(1)).squeeze(1)
        results.append((logits.argmax(-1).tolist(), logprobs))
    return results


def test_there_are_16_prompts_of_the_kinds_that_matter(prompts: list[list[int]]) -> None:
    assert len(prompts) == 16
    assert sorted(map(len, prompts))[-2:] == [500, 500]


@pytest.mark.parametrize("index", range(16))
def test_greedy_tokens_and_logprobs(
    index: int, generations: list[Generation], expected: list[tuple[list[int], torch.Tensor]]
) -> None:
    tokens, logprobs = expected[index]
    assert len(tokens) == NUM_TOKENS
    assert generations[index].token_ids == tokens
    ours = torch.tensor([entry.logprob for entry in generations[index].logprobs])
    assert float((ours - logprobs).abs().max()) < MAX_LOGPROB_ERROR


def test_prompt_logprobs(llm: LLM, oracle: Any, prompts: list[list[int]]) -> None:
    prompt = max(prompts, key=len)
    [generation] = llm.generate([prompt], SamplingParams(max_tokens=0, prompt_logprobs=0), show_progress=False)
    with torch.inference_mode():
        expected = oracle(torch.tensor([prompt])).logits[0, :-1].log_softmax(-1)
    chosen = expected.gather(1, torch.tensor(prompt[1:]).unsqueeze(1)).squeeze(1)
    assert float((logprobs_of(generation.prompt_logprobs) - chosen).abs().max()) < MAX_LOGPROB_ERROR


def logprobs_of(entries: list[TokenLogprobs]) -> torch.Tensor:
    return torch.tensor([entry.logprob for entry in entries])
