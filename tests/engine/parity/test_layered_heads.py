"""Layers of different head counts, as lists in config.json, against a full model in which what they lack does nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import ModelLoadError
from engine.models.registry import load_spec
from tests.engine.parity.harness import Served, assert_parity, steps_of
from tests.engine.parity.oracles import build_oracle, save
from tests.engine.parity.rows.row import SMALL, VOCAB_SIZE, Row

HEAD_DIM = 8
Q_HEADS, KV_HEADS = [6, 4, 6], [2, 2, 1]
KEPT = [0, 1, 3, 4]
"""Of the query heads of layer 1: two of the three on each KV head."""


def cut(name: str, tensor: Tensor) -> Tensor:
    """What the smaller layers keep of a tensor of the full model."""
    if "layers.1.self_attn.q_proj" in name:
        return tensor.unflatten(0, (-1, HEAD_DIM))[KEPT].flatten(0, 1)
    if name == "model.layers.1.self_attn.o_proj.weight":
        return tensor.unflatten(1, (-1, HEAD_DIM))[:, KEPT].flatten(1)
    if "layers.2.self_attn.k_proj" in name or "layers.2.self_attn.v_proj" in name:
        return tensor[:HEAD_DIM]
    return tensor


@torch.no_grad()
def full_model() -> Any:
    """Layer 1 writes nothing of two of its heads to the stream; both KV heads of layer 2 are the same."""
    model = build_oracle(Row("LlamaConfig", "LlamaForCausalLM", {**SMALL, "attention_bias": True}))
    columns = model.model.layers[1].self_attn.o_proj.weight.unflatten(1, (-1, HEAD_DIM))
    columns[:, [head for head in range(6) if head not in KEPT]] = 0.0
    attention = model.model.layers[2].self_attn
    for parameter in (*attention.k_proj.parameters(), *attention.v_proj.parameters()):
        parameter[HEAD_DIM:] = parameter[:HEAD_DIM]
    return model


def write_smaller(folder: Path) -> dict[str, Any]:
    """Cut the saved full model; returns its new config."""
    tensors = load_file(folder / "model.safetensors")
    save_file({name: cut(name, tensor).contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config |= {"num_attention_heads": Q_HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM}
    (folder / "config.json").write_text(json.dumps(config))
    return config


@pytest.mark.parametrize("kernels", ["reference", "auto"])
def test_a_layer_without_heads_equals_one_whose_heads_do_nothing(tmp_path: Path, kernels: str) -> None:
    model = full_model()
    write_smaller(save(model, tmp_path))
    served = Served(tmp_path, max_model_len=40, kernels=kernels)
    assert [(layer.num_q_heads, layer.num_kv_heads) for layer in served.spec.layers] == [(6, 2), (4, 2), (6, 1)]
    assert served.geometry.bytes_per_token == (2 + 2 + 1) * 2 * HEAD_DIM * 4
    assert served.storage.nbytes == served.geometry.bytes_per_block * served.num_blocks
    ids = torch.randint(3, VOCAB_SIZE, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids).logits
    for given, wanted in zip(served.logits(ids.tolist(), steps_of([40, 40])), expected, strict=True):
        assert_parity(given, wanted, 1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": None}, "lacks 'head_dim'"),
        ({"num_key_value_heads": [2, 1]}, r"'num_key_value_heads' must be .* for each of 3 layers, got \[2, 1\]"),
        ({"num_attention_heads": [6, 0, 6]}, "'num_attention_heads' must be at least 1, got 0"),
        ({"num_attention_heads": [6, 4.0, 6]}, "'num_attention_heads' must be of type int, got 4.0"),
        ({"num_key_value_heads": [2, 3, 1]}, r"query heads \(4\) must be a multiple of the key/value heads \(3\)"),
    ],
)
def test_lists_that_make_no_model(changes: dict[str, Any], message: str) -> None:
    config = {**SMALL, "architectures": ["LlamaForCausalLM"], "head_dim": HEAD_DIM}
    with pytest.raises(ModelLoadError, match=message):
        load_spec({**config, "num_attention_heads": Q_HEADS, "num_key_value_heads": KV_HEADS, **changes})


def test_one_list_is_enough() -> None:
    config = {**SMALL, "architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2}
    spec = load_spec({**config, "head_dim": HEAD_DIM, "num_key_value_heads": [6, 1, 3]})
    assert [(layer.num_q_heads, layer.num_kv_heads) for layer in spec.layers] == [(6, 6), (6, 1), (6, 3)]
