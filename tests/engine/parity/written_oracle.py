"""What a model that transformers lacks needs to be called, shaken and saved as theirs are."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


class WrittenOracle(nn.Module):
    """A decoder written out from its description, one whole sequence at a time.

    Args:
        config: what config.json will hold.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.written_config = config

    def logits(self, ids: Tensor) -> Tensor:
        """[seq_len, vocab_size] for ids [seq_len]."""
        raise NotImplementedError

    def forward(self, ids: Tensor) -> SimpleNamespace:
        """Logits of each row of ids [num_seqs, seq_len]."""
        return SimpleNamespace(logits=torch.stack([self.logits(row) for row in ids]))

    def save_pretrained(self, folder: Path) -> None:
        """config.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.written_config))
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / "model.safetensors")


def attend(q: Tensor, k: Tensor, v: Tensor, num_before: int | None = None) -> Tensor:
    """Softmax attention of every token over itself and those before it.

    Args:
        q: [seq_len, num_q_heads, head_dim].
        k: [seq_len, num_kv_heads, head_dim]; each of its heads serves as many query heads as the next.
        v: like k.
        num_before: how many of the tokens before are seen; None: all.

    Returns:
        [seq_len, num_q_heads * head_dim].
    """
    seq_len, num_q_heads, head_dim = q.shape
    group = num_q_heads // k.shape[1]
    distance = torch.arange(seq_len)[:, None] - torch.arange(seq_len)[None, :]
    hidden = distance < 0 if num_before is None else (distance < 0) | (distance > num_before)
    heads = []
    for head in range(num_q_heads):
        scores = q[:, head] @ k[:, head // group].T / head_dim**0.5
        heads.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v[:, head // group])
    return torch.cat(heads, -1)


def turn(x: Tensor, theta: float, direction: float = 1.0) -> Tensor:
    """Rotary embedding of x [seq_len, num_heads, head_dim]: its halves are the two parts of complex numbers."""
    half = x.shape[-1] // 2
    speed = theta ** -(torch.arange(half, dtype=torch.float32) / half)
    angles = direction * torch.outer(torch.arange(x.shape[0], dtype=torch.float32), speed)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat((turned.real, turned.imag), -1)
