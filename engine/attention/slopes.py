"""ALiBi's slopes as tensors, for backends."""

import torch
from torch import Tensor

from engine.models.spec import DecoderSpec


def slopes_of_layers(spec: DecoderSpec, device: torch.device) -> list[Tensor | None]:
    """A tensor [num_q_heads] float32 for each layer, None where it has no slopes; layers with equal slopes share it."""
    tensors = {
        slopes: torch.tensor(slopes, dtype=torch.float32, device=device)
        for slopes in {layer.alibi_slopes for layer in spec.layers if layer.alibi_slopes}
    }
    return [tensors[layer.alibi_slopes] if layer.alibi_slopes else None for layer in spec.layers]
