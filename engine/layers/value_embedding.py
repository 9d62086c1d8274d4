"""An embedding of the token itself, added to its values."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from engine.kernels.base import Kernels
from engine.layers.linear import Linear
from engine.models.spec import ValueEmbeddingSpec


class ValueEmbedding:
    """v += multiplier * sigmoid(gate(x[:gate_channels])) * embed(token), one gate a KV head (nanochat)."""

    def __init__(
        self, spec: ValueEmbeddingSpec, kernels: Kernels, parameters: Mapping[str, Tensor], prefix: str
    ) -> None:
        self._spec = spec
        self._table = parameters[f"{prefix}.value_embed.weight"]
        self._gate = Linear(kernels, parameters, f"{prefix}.value_gate")

    def __call__(self, v: Tensor, x: Tensor, input_ids: Tensor) -> Tensor:
        """The new values.

        Args:
            v: [num_tokens, num_kv_heads, v_head_dim].
            x: [num_tokens, hidden_size], what the values were projected from.
            input_ids: [num_tokens] int64.
        """
        gate = self._spec.gate_multiplier * self._gate(x[:, : self._spec.gate_channels]).sigmoid()
        return v + gate.unsqueeze(-1) * F.embedding(input_ids, self._table).view(v.shape)
