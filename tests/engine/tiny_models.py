"""Tiny checkpoints, written by transformers: random weights, real file formats."""

import warnings
from pathlib import Path
from typing import Any

import torch

from configs.cache import CacheSettings
from configs.engine import EngineSettings
from configs.model import ModelSettings
from configs.scheduler import SchedulerSettings
from engine.core import EngineCore
from engine.request import Request, SamplingParams, TokenDelta

VOCAB_SIZE = 101

LLAMA = {
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": VOCAB_SIZE,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
}
GPT2 = {"n_embd": 48, "n_head": 4, "n_layer": 3, "vocab_size": VOCAB_SIZE, "n_positions": 256}


def build_model(family: str, **overrides: Any) -> Any:
    """A transformers model of `family` (llama, mistral, mixtral, gpt2) with random float64 weights from a fixed seed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers as hf

        classes = {
            "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, LLAMA),
            "mistral": (hf.MistralConfig, hf.MistralForCausalLM, LLAMA),
            "mixtral": (hf.MixtralConfig, hf.MixtralForCausalLM, {**LLAMA, "num_local_experts": 4}),
            "gpt2": (hf.GPT2Config, hf.GPT2LMHeadModel, GPT2),
        }
        config_class, model_class, base = classes[family]
        torch.manual_seed(0)
        config = config_class(**{**base, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, **overrides})
        return model_class(config).double().eval()


def save_model(model: Any, folder: Path, **options: Any) -> Path:
    """Write `model` as transformers does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, **options)
    return folder


def settings(**overrides: Any) -> EngineSettings:
    """Small, exact, on one CPU; any field of the model, cache or scheduler settings may be given by name.

    Steps are short, for a start rehearses the longest one; products this small are slower on two threads.
    """

    def pick(kind: Any, base: dict[str, Any]) -> Any:
        return kind(**{**base, **{k: v for k, v in overrides.items() if k in kind.model_fields}})

    return EngineSettings(
        model_settings=pick(ModelSettings, {"dtype": "float64", "device": "cpu", "num_threads": 1}),
        cache=pick(CacheSettings, {"block_size": 4, "kv_cache_memory_bytes": 3_000_000}),
        scheduler=pick(SchedulerSettings, {"max_num_batched_tokens": 256, "max_num_seqs": 16}),
    )


def make_request(request_id: str, prompt_token_ids: list[int], **params: Any) -> Request:
    """A greedy request of up to 16 tokens, unless `params` says otherwise; the first three go to it."""
    fields = {name: params.pop(name) for name in ("priority", "arrival_time_s", "timeout_s") if name in params}
    sampling = SamplingParams(**{"temperature": 0.0, "max_tokens": 16, **params})
    return Request(request_id=request_id, prompt_token_ids=prompt_token_ids, sampling_params=sampling, **fields)


def run(core: EngineCore, requests: list[Request]) -> dict[str, list[TokenDelta]]:
    """All deltas of each request, run to the end together."""
    deltas: dict[str, list[TokenDelta]] = {request.request_id: [] for request in requests}
    for request in requests:
        core.add(request)
    while core.has_requests:
        for delta in core.step():
            deltas[delta.request_id].append(delta)
        core.check_integrity()
    return deltas


def tokens(deltas: list[TokenDelta]) -> list[int]:
    """The output token ids of one request."""
    return [token_id for delta in deltas for token_id in delta.token_ids]


def prompt(length: int, seed: int = 0) -> list[int]:
    """Random token ids that are no special tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist()
    return ids
