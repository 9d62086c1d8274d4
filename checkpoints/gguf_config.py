"""GGUF metadata to config.json."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from checkpoints.errors import GGUFError, UnsupportedModelError
from checkpoints.gguf_file import GGUFFile

Config = dict[str, Any]

ROPE_FREQS = "rope_freqs.weight"

# Of Llama 3.1 to 3.3. The file keeps the frequency factors that come out of these numbers, not the numbers themselves.
LLAMA3_LOW_FREQ_FACTOR, LLAMA3_HIGH_FREQ_FACTOR, LLAMA3_ORIGINAL_LEN = 1.0, 4.0, 8192


def build_config(source: GGUFFile, dtype: str) -> Config:
    """config.json in the words of transformers.

    Raises:
        UnsupportedModelError: the architecture, or a feature of it, is none of those that can be imported.
        GGUFError: metadata is missing or malformed.
    """
    architecture = source.architecture
    if architecture not in ARCHITECTURES:
        supported = ", ".join(sorted(ARCHITECTURES))
        what = f"{source.path} cannot be imported: its architecture"
        raise UnsupportedModelError(what, expected=f"one of {supported}", given=architecture)
    ids = {f"{name}_token_id": source.find(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    return ARCHITECTURES[architecture](source) | {
        "vocab_size": _rows(source, "token_embd.weight"),
        "tie_word_embeddings": "output.weight" not in source.tensors,
        "dtype": dtype,
        **ids,
    }


def num_heads(source: GGUFFile) -> tuple[int, int]:
    """Query heads and key/value heads of every layer."""
    arch = source.architecture
    num_q_heads = source.require(f"{arch}.attention.head_count", int)
    num_kv_heads = source.get(f"{arch}.attention.head_count_kv", int, num_q_heads)
    if num_kv_heads < 1 or num_q_heads % num_kv_heads:
        given = f"{num_q_heads} and {num_kv_heads}"
        raise GGUFError(f"{source.path}: query heads must be a multiple of key/value heads", given=given)
    return num_q_heads, num_kv_heads


def _llama(source: GGUFFile) -> Config:
    if source.get("llama.expert_count", int, 0):
        raise UnsupportedModelError(f"{source.path} cannot be imported: mixture of experts")
    hidden_size = source.require("llama.embedding_length", int)
    num_q_heads, num_kv_heads = num_heads(source)
    head_dim = source.get("llama.attention.key_length", int, hidden_size // num_q_heads)
    _check_rope_width(source, head_dim)
    window = source.get("llama.attention.sliding_window", int, 0)
    return {
        # A sliding window is the one thing that sets Mistral apart.
        "architectures": ["MistralForCausalLM" if window else "LlamaForCausalLM"],
        "model_type": "mistral" if window else "llama",
        **({"sliding_window": window} if window else {}),
        "hidden_size": hidden_size,
        "intermediate_size": source.require("llama.feed_forward_length", int),
        "num_hidden_layers": source.require("llama.block_count", int),
        "num_attention_heads": num_q_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": source.require("llama.context_length", int),
        "rms_norm_eps": source.require("llama.attention.layer_norm_rms_epsilon", float),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in source.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in source.tensors,
        "rope_theta": source.get("llama.rope.freq_base", float, 10000.0),
        "rope_scaling": _rope_scaling(source, head_dim),
    }


def _gpt2(source: GGUFFile) -> Config:
    num_q_heads, num_kv_heads = num_heads(source)
    if num_kv_heads != num_q_heads:
        what = f"{source.path} cannot be imported: key/value heads of gpt2"
        raise UnsupportedModelError(what, expected=str(num_q_heads), given=str(num_kv_heads))
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": source.require("gpt2.embedding_length", int),
        "n_inner": source.require("gpt2.feed_forward_length", int),
        "n_layer": source.require("gpt2.block_count", int),
        "n_head": num_q_heads,
        "n_positions": source.require("gpt2.context_length", int),
        "layer_norm_epsilon": source.require("gpt2.attention.layer_norm_epsilon", float),
        "activation_function": "gelu_new",
    }


ARCHITECTURES: dict[str, Callable[[GGUFFile], Config]] = {"llama": _llama, "gpt2": _gpt2}


def _rows(source: GGUFFile, name: str) -> int:
    if name not in source.tensors:
        raise GGUFError(f"{source.path} lacks the tensor {name!r}")
    return int(source.tensors[name].shape[-1])


def _check_rope_width(source: GGUFFile, head_dim: int) -> None:
    rope_width = source.get("llama.rope.dimension_count", int, head_dim)
    value_width = source.get("llama.attention.value_length", int, head_dim)
    for name, width in (("rope.dimension_count", rope_width), ("attention.value_length", value_width)):
        if width != head_dim:
            what = f"{source.path} cannot be imported: llama.{name}"
            raise UnsupportedModelError(what, expected=f"the head width {head_dim}", given=str(width))


def _rope_scaling(source: GGUFFile, head_dim: int) -> Config | None:
    if ROPE_FREQS in source.tensors:
        return _llama3_scaling(source, head_dim)
    kind = source.get("llama.rope.scaling.type", str, "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        what = f"{source.path} cannot be imported: rope scaling"
        raise UnsupportedModelError(what, expected="none, linear, yarn, or llama3's factors", given=kind)
    scaling: Config = {"rope_type": kind, "factor": source.require("llama.rope.scaling.factor", float)}
    if kind == "yarn":
        key = "llama.rope.scaling.original_context_length"
        scaling["original_max_position_embeddings"] = source.require(key, int)
    return scaling


def _llama3_scaling(source: GGUFFile, head_dim: int) -> Config:
    """The llama3 parameters that give the frequency factors in the file."""
    stored = np.asarray(source.tensors[ROPE_FREQS].data, dtype=np.float64)
    original_len = source.get("llama.rope.scaling.original_context_length", int, LLAMA3_ORIGINAL_LEN)
    factor = float(stored.max(initial=1.0))
    theta = source.get("llama.rope.freq_base", float, 10000.0)
    expected = llama3_factors(head_dim, theta, factor, original_len)
    if stored.shape != expected.shape or not np.allclose(stored, expected, rtol=1e-4):
        what = f"{source.path} cannot be imported: {ROPE_FREQS}"
        wanted = f"the factors of llama3 rope scaling for {original_len} original positions"
        raise UnsupportedModelError(what, expected=wanted, given=str(stored.round(3).tolist())[:200])
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LLAMA3_LOW_FREQ_FACTOR,
        "high_freq_factor": LLAMA3_HIGH_FREQ_FACTOR,
        "original_max_position_embeddings": original_len,
    }


def llama3_factors(head_dim: int, theta: float, factor: float, original_len: int) -> np.ndarray[Any, np.dtype[Any]]:
    """What each rotary frequency is divided by, shape [head_dim / 2] (Llama 3.1's long-context scaling).

    Waves that fit into the original context at least four times stay as they are, those that do not fit once are
    stretched by `factor`, and in between the two are blended.
    """
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    num_periods = original_len / wavelengths
    blend = (num_periods - LLAMA3_LOW_FREQ_FACTOR) / (LLAMA3_HIGH_FREQ_FACTOR - LLAMA3_LOW_FREQ_FACTOR)
    blend = blend.clip(0, 1)
    return 1 / ((1 - blend) / factor + blend)
