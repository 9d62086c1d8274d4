"""Tiny models, and GGUF files written from them the way converters do."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from gguf import GGUFWriter, TokenType
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

BYTES = sorted(ByteLevel.alphabet())
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "Ġw o", "1 2", "12 3"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTE_LEVEL_TOKENS = SPECIAL + BYTES + [merge.replace(" ", "") for merge in MERGES]
BYTE_LEVEL_KINDS = [TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(BYTE_LEVEL_TOKENS) - 3)
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"

LLAMA_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GPT2_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}

Quantize = Callable[[str, np.ndarray], tuple[np.ndarray, Q]]


def plain(name: str, values: np.ndarray) -> tuple[np.ndarray, Q]:
    return values, Q.F32


def interleave(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows as llama.cpp wants them, by its definition: pair i of a head is rows 2i and 2i + 1."""
    head_dim = len(weight) // num_heads
    rows = [
        head * head_dim + half * head_dim // 2 + pair
        for head in range(num_heads)
        for pair in range(head_dim // 2)
        for half in (0, 1)
    ]
    return weight[rows]


def tiny_llama(**overrides: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    settings = {
        "vocab_size": len(BYTE_LEVEL_TOKENS),
        "hidden_size": 96,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
    }
    return LlamaForCausalLM(LlamaConfig(**settings | overrides)).eval()


def tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(BYTE_LEVEL_TOKENS), n_embd=64, n_layer=2, n_head=4, n_positions=64, n_inner=96)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def add_byte_level_tokenizer(writer: GGUFWriter, pre: str | None = "smollm") -> None:
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(BYTE_LEVEL_TOKENS)
    writer.add_token_types(BYTE_LEVEL_KINDS)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_llama(
    path: Path,
    model: PreTrainedModel,
    *,
    quantize: Quantize = plain,
    add_tokenizer: Callable[[GGUFWriter], None] = add_byte_level_tokenizer,
    extra: Callable[[GGUFWriter], None] | None = None,
) -> Path:
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    add_tokenizer(writer)
    if extra:
        extra(writer)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, values in llama_tensors(model).items():
        module = name.split(".")[-2]
        ordered = interleave(values, heads[module]) if module in heads else values
        data, kind = quantize(name, np.ascontiguousarray(ordered))
        writer.add_tensor(name, data, raw_dtype=kind)
    finish(writer)
    return path


def llama_tensors(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """GGUF name -> values in transformers' row order."""
    state = {name: value.detach().float().numpy() for name, value in model.state_dict().items()}
    tensors = {
        "token_embd.weight": state["model.embed_tokens.weight"],
        "output_norm.weight": state["model.norm.weight"],
    }
    if not model.config.tie_word_embeddings:
        tensors["output.weight"] = state["lm_head.weight"]
    return tensors | layer_tensors(state, "model.layers", LLAMA_NAMES)


def layer_tensors(state: dict[str, np.ndarray], prefix: str, names: dict[str, str]) -> dict[str, np.ndarray]:
    tensors = {}
    for name, values in state.items():
        if name.startswith(prefix + "."):
            layer_idx, _, rest = name.removeprefix(prefix + ".").partition(".")
            module, _, kind = rest.rpartition(".")
            tensors[f"blk.{layer_idx}.{names[module]}.{kind}"] = values
    return tensors


def write_gpt2(path: Path, model: GPT2LMHeadModel) -> Path:
    config = model.config
    writer = GGUFWriter(path, "gpt2")
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    add_byte_level_tokenizer(writer, "gpt-2")
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["transformer.wte.weight"])
    writer.add_tensor("position_embd.weight", state["transformer.wpe.weight"])
    writer.add_tensor("output_norm.weight", state["transformer.ln_f.weight"])
    writer.add_tensor("output_norm.bias", state["transformer.ln_f.bias"])
    for name, values in layer_tensors(state, "transformer.h", GPT2_NAMES).items():
        is_conv1d = values.ndim == 2
        writer.add_tensor(name, np.ascontiguousarray(values.T) if is_conv1d else values)
    finish(writer)
    return path


def quantized(values: np.ndarray, kind: Q) -> np.ndarray:
    """`values` in `kind`; random blocks where the library has no quantizer for it."""
    try:
        return np.asarray(gguf.quants.quantize(values, kind))
    except NotImplementedError:
        shape = gguf.quants.quant_shape_to_byte_shape(values.shape, kind)
        # Small bytes: whichever of them is the high half of a float16 scale, the scale is finite.
        return np.random.default_rng(0).integers(0, 0x3C, shape, dtype=np.uint8)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root reads everything: be nobody for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
