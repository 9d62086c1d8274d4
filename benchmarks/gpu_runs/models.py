"""Models as shapes: a config.json's fields, and weights that are drawn on the device."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_runs.timing import Device
from configs.engine import EngineSettings
from configs.fields import with_overrides
from configs.model import ModelSettings
from engine.checkpoint import Checkpoint
from engine.core import EngineCore
from engine.loading import Placement, build_engine
from engine.models.registry import find_family, load_spec

Config = dict[str, Any]

LLAMA_3_8B: Config = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWEN3_0_6B: Config = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
SMALL: Config = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 256,
    "max_position_embeddings": 512,
}
WEIGHT_STD = 0.02


def sized(config: Config, device: Device, **changes: Any) -> Config:
    """The model with some fields changed; in a rehearsal a tiny one of its family."""
    return config | changes | ({**SMALL, **_within(changes)} if device.is_rehearsal else {})


def _within(changes: Config) -> Config:
    """What of the changes a tiny model can follow."""
    heads = changes.get("num_key_value_heads")
    return {} if heads is None else {"num_key_value_heads": min(heads, SMALL["num_attention_heads"])}


def make_engine(config: Config, device: Device, **settings: Any) -> EngineCore:
    """An engine over random weights, without a prefix cache, whose prefill waits for no decode."""
    wanted = {"device": device.torch.type, "enable_prefix_cache": False, "max_decode_slowdown": 1000.0, **settings}
    spec, names = load_spec(config), find_family(config).names(config)
    checkpoint = Checkpoint(config, {}, {}, spec, names, [])
    return build_engine(checkpoint, with_overrides(EngineSettings(), wanted, "the benchmark"), random_weights)


def random_weights(checkpoint: Checkpoint, settings: ModelSettings, placement: Placement) -> dict[str, Tensor]:
    """Normal numbers, and norms of one; an order of magnitude that keeps activations finite. See engine.loading."""
    torch.manual_seed(0)
    return {
        name: torch.ones(shape, dtype=placement.dtype, device=placement.device)
        if len(shape) == 1
        else torch.empty(shape, dtype=placement.dtype, device=placement.device).normal_(std=WEIGHT_STD)
        for name, shape in checkpoint.spec.parameter_shapes().items()
    }


def kv_pool_bytes(config: Config, num_seqs: int, num_tokens: int) -> int:
    """What so many sequences of so many tokens take in bfloat16, with what the scheduler leaves free."""
    geometry = load_spec(config).kv_geometry(2, 16, 0)
    return round(1.15 * (num_seqs + 1) * geometry.bytes_per_request(num_tokens))
