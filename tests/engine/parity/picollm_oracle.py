"""picollm, written out in plain PyTorch from its description; transformers has none."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from tests.engine.parity.written_oracle import WrittenOracle, attend, turn

GATE_COLUMNS, SMEAR_COLUMNS = 12, 24


def unit(x: Tensor) -> Tensor:
    """X at a root mean square of 1: a norm without weights."""
    return x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()


class PicoLayer(nn.Module):
    """Attention and MLP of one layer, each reading the normalised stream and adding to it."""

    def __init__(self, config: dict[str, Any], layer_idx: int) -> None:
        super().__init__()
        width, num_q, num_kv = config["n_embd"], config["n_head"], config["n_kv_head"]
        self.head_dim = width // num_q
        attn = {
            "c_q": nn.Linear(width, num_q * self.head_dim, bias=False),
            "c_k": nn.Linear(width, num_kv * self.head_dim, bias=False),
            "c_v": nn.Linear(width, num_kv * self.head_dim, bias=False),
            "c_proj": nn.Linear(width, width, bias=False),
        }
        if has_value_embedding(config, layer_idx):
            attn["ve_gate"] = nn.Linear(GATE_COLUMNS, num_kv, bias=False)
        self.attn = nn.ModuleDict(attn)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width, bias=False), "c_proj": nn.Linear(4 * width, width, bias=False)}
        )
        is_long = layer_idx == config["n_layer"] - 1 or "SSSL"[layer_idx % 4] == "L"
        self.num_before = None if is_long else 128 * math.ceil(config["sequence_len"] / 4 / 128)

    def forward(self, x: Tensor, token_values: Tensor | None) -> Tensor:
        """The stream after this layer; `token_values` [seq_len, num_kv_heads * head_dim], where the layer has them."""
        read = unit(x)
        q, k, v = (self.attn[name](read).unflatten(-1, (-1, self.head_dim)) for name in ("c_q", "c_k", "c_v"))
        if token_values is not None:
            openness = 3 * torch.sigmoid(self.attn["ve_gate"](read[:, :GATE_COLUMNS]))
            v = v + openness[:, :, None] * token_values.view(v.shape)
        q, k = (1.2 * unit(turn(heads, 100_000.0, direction=-1.0)) for heads in (q, k))
        x = x + self.attn["c_proj"](attend(q, k, v, self.num_before))
        return x + self.mlp["c_proj"](self.mlp["c_fc"](unit(x)).clamp(min=0) ** 2)


class PicoLLM(WrittenOracle):
    """The whole model; its attributes have the names of the checkpoint's tensors."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__({"architectures": ["PicoLlmForCausalLM"], "model_type": "picollm", **config})
        width, num_layers = config["n_embd"], config["n_layer"]
        num_rows = 64 * math.ceil(config["vocab_size"] / 64)
        layers = nn.ModuleList([PicoLayer(config, layer_idx) for layer_idx in range(num_layers)])
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(num_rows, width), "h": layers})
        self.layers = [layer for layer in layers if isinstance(layer, PicoLayer)]
        self.lm_head = nn.Linear(width, num_rows, bias=False)
        self.resid_lambdas = nn.Parameter(torch.ones(num_layers))
        self.x0_lambdas = nn.Parameter(torch.zeros(num_layers))
        self.smear_gate = nn.Linear(SMEAR_COLUMNS, 1, bias=False)
        self.smear_lambda = nn.Parameter(torch.ones(1))
        self.backout_lambda = nn.Parameter(torch.full((1,), 0.2))
        kv_width = config["n_kv_head"] * (width // config["n_head"])
        with_values = [i for i in range(num_layers) if has_value_embedding(config, i)]
        self.value_embeds = nn.ModuleDict({str(i): nn.Embedding(num_rows, kv_width) for i in with_values})

    def logits(self, ids: Tensor) -> Tensor:
        """[seq_len, vocab_size]: the rows that pad the vocabulary are cut off."""
        x = unit(self.transformer["wte"](ids))
        openness = self.smear_lambda * torch.sigmoid(self.smear_gate(x[:, :SMEAR_COLUMNS]))
        before = torch.cat((torch.zeros_like(x[:1]), x[:-1]))
        x = first = x + openness * before
        middle = torch.zeros_like(x)
        for i, layer in enumerate(self.layers):
            token_values = self.value_embeds[str(i)](ids) if str(i) in self.value_embeds else None
            x = layer(self.resid_lambdas[i] * x + self.x0_lambdas[i] * first, token_values)
            if i == self.written_config["n_layer"] // 2:
                middle = x
        logits = self.lm_head(unit(x - self.backout_lambda * middle))[:, : self.written_config["vocab_size"]]
        return 15 * torch.tanh(logits / 15)


def has_value_embedding(config: dict[str, Any], layer_idx: int) -> bool:
    """Every other layer, and the last one."""
    return bool((config["n_layer"] - 1 - layer_idx) % 2 == 0)
