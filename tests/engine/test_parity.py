"""Families against transformers, in float64: same tokens, same log-probabilities."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.core import EngineCore
from tests.engine.tiny_models import build_model, make_request, prompt, run, save_model, tokens

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-mha": ("llama", {"num_key_value_heads": 6}),
    "llama-gqa": ("llama", {"num_key_value_heads": 2}),
    "llama-mqa": ("llama", {"num_key_value_heads": 1}),
    "llama-head-dim": ("llama", {"head_dim": 24}),
    "llama-biases-tied": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama3-rope": ("llama", {"rope_parameters": LLAMA3}),
    "linear-rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": 7}),
    "gpt2": ("gpt2", {}),
    "gpt2-scaled": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_inner": 40}),
}
PROMPT_LENGTHS = (1, 5, 17, 60)


@pytest.mark.parametrize("name", MODELS)
def test_tokens_and_logprobs_equal_transformers(name: str, tmp_path: Path, load: Callable[..., EngineCore]) -> None:
    family, overrides = MODELS[name]
    model = build_model(family, **overrides)
    with torch.no_grad():
        # Biases and norms start at 0 and 1: shake them, or a lost one would not show.
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    core = load(save_model(model, tmp_path))
    prompts = [prompt(length, seed=length) for length in PROMPT_LENGTHS]
    deltas = run(
        core,
        [make_request(str(i), ids, max_tokens=24, ignore_eos=True, logprobs=0) for i, ids in enumerate(prompts)],
    )
    for i, ids in enumerate(prompts):
        output = tokens(deltas[str(i)])
        expected_tokens, expected_logprobs = greedy(model, ids, output)
        assert output == expected_tokens
        assert len(output) == 24
        logprobs = torch.tensor([lp.logprob for delta in deltas[str(i)] for lp in delta.logprobs], dtype=torch.float64)
        # transformers' RMSNorm rounds to float32 inside, so 1e-6 and not 1e-12.
        torch.testing.assert_close(logprobs, expected_logprobs, atol=1e-6, rtol=0)


def test_sharded_checkpoint_equals_the_single_file(tmp_path: Path, load: Callable[..., EngineCore]) -> None:
    model = build_model("llama")
    single = load(save_model(model, tmp_path / "single"))
    sharded_folder = save_model(model, tmp_path / "sharded", max_shard_size="100KB")
    assert len(list(sharded_folder.glob("*.safetensors"))) > 2
    sharded = load(sharded_folder)
    request = [make_request("r", prompt(9))]
    again = [make_request("r", prompt(9))]
    assert tokens(run(single, request)["r"]) == tokens(run(sharded, again)["r"])


def test_prompt_logprobs_equal_transformers(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    model, ids = build_model("llama"), prompt(50)
    core = load(tiny_llama, max_num_batched_tokens=16)
    deltas = run(core, [make_request("r", ids, max_tokens=0, prompt_logprobs=3)])["r"]
    reported = [lp for delta in deltas for lp in delta.prompt_logprobs]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].log_softmax(-1)[:-1]
    assert [lp.token_id for lp in reported] == ids[1:]
    chosen = expected.gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(torch.tensor([lp.logprob for lp in reported]).double(), chosen, atol=1e-6, rtol=0)
    assert [lp.top_token_ids for lp in reported] == expected.topk(3).indices.tolist()
    assert tokens(deltas) == []


def greedy(model: Any, prompt_token_ids: list[int], output: list[int]) -> tuple[list[int], torch.Tensor]:
    """The most likely token after the prompt and after each but the last of `output`, and their log-probabilities.

    Where they are `output`, it is what greedy decoding gives: one pass shows it for all of its tokens.
    """
    with torch.no_grad():
        rows = model(torch.tensor([[*prompt_token_ids, *output[:-1]]])).logits[0, len(prompt_token_ids) - 1 :]
    best = rows.log_softmax(-1).max(-1)
    return best.indices.tolist(), best.values
