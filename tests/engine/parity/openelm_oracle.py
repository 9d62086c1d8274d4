"""OpenELM, written out in plain PyTorch from its paper (Mehta et al. 2024) and its config; transformers has none."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.engine.parity.written_oracle import WrittenOracle, attend, turn


class Scaled(nn.Module):
    """RMSNorm over the last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        return self.weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


class ElmLayer(nn.Module):
    """Attention and MLP of one layer; its sizes are entries of the config's lists."""

    def __init__(self, config: dict[str, Any], layer_idx: int, intermediate_size: int) -> None:
        super().__init__()
        width, self.head_dim = config["model_dim"], config["head_dim"]
        self.num_q, self.num_kv = config["num_query_heads"][layer_idx], config["num_kv_heads"][layer_idx]
        self.theta, self.is_gated = config["rope_freq_constant"], config["ffn_with_glu"]
        attn: dict[str, nn.Module] = {
            "qkv_proj": nn.Linear(width, (self.num_q + 2 * self.num_kv) * self.head_dim, bias=False),
            "out_proj": nn.Linear(self.num_q * self.head_dim, width, bias=False),
        }
        if config["normalize_qk_projections"]:
            attn |= {"q_norm": Scaled(self.head_dim), "k_norm": Scaled(self.head_dim)}
        self.attn = nn.ModuleDict(attn)
        columns = intermediate_size * (2 if self.is_gated else 1)
        self.ffn = nn.ModuleDict(
            {
                "proj_1": nn.Linear(width, columns, bias=False),
                "proj_2": nn.Linear(intermediate_size, width, bias=False),
            }
        )
        self.attn_norm, self.ffn_norm = Scaled(width), Scaled(width)

    def forward(self, x: Tensor) -> Tensor:
        """The stream [seq_len, model_dim] after this layer."""
        heads = self.attn["qkv_proj"](self.attn_norm(x)).unflatten(-1, (-1, self.head_dim))
        q, k, v = heads[:, : self.num_q], heads[:, self.num_q : -self.num_kv], heads[:, -self.num_kv :]
        if "q_norm" in self.attn:
            q, k = self.attn["q_norm"](q), self.attn["k_norm"](k)
        x = x + self.attn["out_proj"](attend(turn(q, self.theta), turn(k, self.theta), v))
        inner = self.ffn["proj_1"](self.ffn_norm(x))
        if self.is_gated:
            first, second = inner.chunk(2, dim=-1)
            return x + self.ffn["proj_2"](F.silu(first) * second)
        return x + self.ffn["proj_2"](F.silu(inner))


class OpenELM(WrittenOracle):
    """The whole model; its attributes have the names of the checkpoint's tensors.

    Args:
        config: of config.json, and `expected_widths`, what each layer's MLP width should come out as.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        config = {"normalize_qk_projections": True, "ffn_with_glu": True, "rope_freq_constant": 10000, **config}
        widths = config.pop("expected_widths")
        super().__init__({"architectures": ["OpenELMForCausalLM"], "model_type": "openelm", **config})
        width, vocab_size = config["model_dim"], config["vocab_size"]
        self.layers = [ElmLayer(config, layer_idx, inner) for layer_idx, inner in enumerate(widths)]
        self.transformer = nn.ModuleDict(
            {
                "token_embeddings": nn.Embedding(vocab_size, width),
                "layers": nn.ModuleList(self.layers),
                "norm": Scaled(width),
            }
        )
        if not config["share_input_output_layers"]:
            self.lm_head = nn.Linear(width, vocab_size, bias=False)

    def logits(self, ids: Tensor) -> Tensor:
        """[seq_len, vocab_size]."""
        table = self.transformer["token_embeddings"]
        x = table(ids)
        for layer in self.layers:
            x = layer(x)
        x = self.transformer["norm"](x)
        return self.lm_head(x) if hasattr(self, "lm_head") else F.linear(x, table.weight)
