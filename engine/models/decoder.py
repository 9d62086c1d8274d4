"""The one decoder: it runs whatever a DecoderSpec describes."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention.base import AttentionBackend
from engine.kernels.base import Kernels
from engine.kernels.select import select_kernels
from engine.layers.linear import Linear
from engine.layers.mlp import MLP
from engine.layers.norm import Norm
from engine.layers.rotary import Rotary
from engine.models.spec import DecoderSpec

Angles = tuple[Tensor, Tensor] | None


class DecoderLayer:
    """Attention and MLP, each behind its norm, each added to the residual stream."""

    def __init__(self, spec: DecoderSpec, kernels: Kernels, parameters: Mapping[str, Tensor], layer_idx: int) -> None:
        prefix = f"layers.{layer_idx}"
        self._layer_idx = layer_idx
        self._apply_rope = kernels.apply_rope
        self._spec = spec.layers[layer_idx]
        self._attention_norm = Norm(spec.norm, kernels, parameters, f"{prefix}.attention_norm")
        self._qkv = Linear(kernels, parameters, f"{prefix}.qkv")
        self._o = Linear(kernels, parameters, f"{prefix}.o")
        self._mlp_norm = Norm(spec.norm, kernels, parameters, f"{prefix}.mlp_norm")
        self._mlp = MLP(spec.mlp, kernels, parameters, prefix)

    def __call__(self, x: Tensor, angles: Angles, attention: AttentionBackend) -> Tensor:
        """[num_tokens, hidden_size] -> the same shape."""
        q, k, v = self._project(self._attention_norm(x), angles)
        x = self._o(attention.forward(self._layer_idx, q, k, v), residual=x)
        return self._mlp(self._mlp_norm(x), residual=x)

    def _project(self, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value heads, each [num_tokens, num_heads, head_dim]; query and key turned by their angles."""
        spec = self._spec
        qk, v = self._qkv(x).split((spec.q_width + spec.k_width, spec.v_width), dim=-1)
        qk = qk.unflatten(-1, (spec.num_q_heads + spec.num_kv_heads, spec.k_head_dim))
        if angles is not None:
            self._apply_rope(qk, *angles)
        q, k = qk.split((spec.num_q_heads, spec.num_kv_heads), dim=1)
        return q, k, v.unflatten(-1, (spec.num_kv_heads, spec.v_head_dim))


class Decoder:
    """A decoder-only transformer.

    Args:
        spec: what it is.
        parameters: every name of spec.parameter_shapes(), on one device, in one dtype.
        max_model_len: longest context that will be asked of it.
        kernels: what its layers run on; None: the fastest for the parameters' device and dtype.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        parameters: Mapping[str, Tensor],
        max_model_len: int,
        kernels: Kernels | None = None,
    ) -> None:
        self._embed = parameters["embed.weight"]
        kernels = kernels or select_kernels(self._embed.device, self._embed.dtype)
        self._position_embed = parameters.get("position_embed.weight")
        self._rotary = Rotary(spec.rope, max_model_len, self._embed.dtype, self._embed.device) if spec.rope else None
        self._layers = [DecoderLayer(spec, kernels, parameters, layer_idx) for layer_idx in range(spec.num_layers)]
        self._native_layers = kernels.compile_layers(spec, parameters)
        self._norm = Norm(spec.norm, kernels, parameters, "norm")
        self._lm_head = Linear(kernels, parameters, "embed" if spec.has_tied_embeddings else "lm_head")

    def __call__(self, input_ids: Tensor, positions: Tensor, attention: AttentionBackend) -> Tensor:
        """Hidden states [num_tokens, hidden_size] of a planned step.

        Args:
            input_ids: [num_tokens] int64.
            positions: [num_tokens] int64.
            attention: has planned this step.
        """
        x = F.embedding(input_ids, self._embed)
        if self._position_embed is not None:
            x = x + F.embedding(positions, self._position_embed)
        angles = self._rotary.lookup(positions) if self._rotary else None
        if self._native_layers is not None and (paged_step := attention.paged_step) is not None:
            return self._native_layers(x, angles, paged_step)
        for layer in self._layers:
            x = layer(x, angles, attention)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """[num_rows, hidden_size] -> [num_rows, vocab_size], float32 or wider."""
        logits = self._lm_head(self._norm(hidden))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))
