"""Token ids to hidden states."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels import reference
from engine.kernels.base import Kernels
from engine.layers.linear import Linear
from engine.layers.norm import Norm
from engine.models.spec import DecoderSpec


class Table:
    """Rows of the embedding table, in the order that its kernel has them: a tied one is the head's too, and packed."""

    def __init__(
        self, spec: DecoderSpec, kernels: Kernels, parameters: Mapping[str, Tensor], dtype: torch.dtype
    ) -> None:
        self._weight, self._scale = parameters["embed.weight"], parameters.get("embed.scale")
        self._gather_rows = kernels.gather_rows if spec.head.is_tied else reference.gather_rows
        self._gather_rows_int8, self._dtype = kernels.gather_rows_int8, dtype
        self._width = spec.embedding.width or spec.hidden_size

    def __call__(self, input_ids: Tensor) -> Tensor:
        """[num_tokens] int64 -> [num_tokens, width]."""
        if self._scale is None:
            return self._gather_rows(self._weight, input_ids)
        return self._gather_rows_int8(self._weight, self._scale, input_ids, self._width, self._dtype)


class Embedding:
    """The token's embedding and, as the spec says, its position's and its predecessor's."""

    def __init__(
        self, decoder: DecoderSpec, kernels: Kernels, parameters: Mapping[str, Tensor], dtype: torch.dtype
    ) -> None:
        spec = decoder.embedding
        self._table = Table(decoder, kernels, parameters, dtype)
        self._multiplier = None
        if spec.multiplier != 1.0:
            # In the model's dtype, as it was trained: in bfloat16, Gemma's sqrt(3072) is 55.5.
            self._multiplier = torch.tensor(spec.multiplier, dtype=dtype, device=parameters["embed.weight"].device)
        self._projection = Linear(kernels, parameters, "embed_proj") if spec.width else None
        self._positions = parameters.get("position_embed.weight")
        self._norm = Norm(spec.norm, kernels, parameters, "embed_norm") if spec.norm else None
        self._smear_channels = spec.smear_channels
        self._smear_gate = Linear(kernels, parameters, "smear_gate") if spec.smear_channels else None
        self._smear_scale = parameters.get("smear_scale")

    def __call__(self, input_ids: Tensor, positions: Tensor, previous_ids: Tensor) -> Tensor:
        """[num_tokens, hidden_size].

        Args:
            input_ids: [num_tokens] int64.
            positions: [num_tokens] int64.
            previous_ids: [num_tokens] int64: the token before each; any id at position 0.
        """
        x = self._embed(input_ids, positions)
        return x if self._smear_gate is None else self._smear(x, positions, self._embed(previous_ids, positions - 1))

    def _embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        x = self._table(input_ids)
        if self._multiplier is not None:
            x = x * self._multiplier
        if self._projection is not None:
            x = self._projection(x)
        if self._positions is not None:
            x = x + F.embedding(positions.clamp(min=0), self._positions)
        return x if self._norm is None else self._norm(x)

    def _smear(self, x: Tensor, positions: Tensor, previous: Tensor) -> Tensor:
        """X += scale * sigmoid(gate(x[:channels])) * previous, but at the first position, which has none."""
        if self._smear_gate is None or self._smear_scale is None:
            raise RuntimeError("this model's embeddings are not smeared")
        gate = self._smear_scale * self._smear_gate(x[:, : self._smear_channels]).sigmoid()
        return x + torch.where((positions > 0).unsqueeze(-1), gate * previous, 0.0)
