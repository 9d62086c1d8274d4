"""The one decoder: it runs whatever a DecoderSpec describes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.attention.base import AttentionBackend
from engine.batch import BatchTensors
from engine.kernels.base import Kernels
from engine.kernels.select import select_kernels
from engine.layers.attention import Attention
from engine.layers.embedding import Embedding
from engine.layers.head import Head
from engine.layers.mlp import MLP
from engine.layers.moe import MoE
from engine.layers.residual import ResidualMix, Sublayer
from engine.layers.rotary import Rotary
from engine.layers.step import Step
from engine.models.spec import DecoderSpec, MoESpec


class DecoderLayer:
    """Attention and MLP, each behind its norms, each added to the residual stream."""

    def __init__(self, spec: DecoderSpec, kernels: Kernels, parameters: Mapping[str, Tensor], layer_idx: int) -> None:
        prefix, layer = f"layers.{layer_idx}", spec.layers[layer_idx]
        self._attention = Attention(layer, kernels, parameters, prefix, layer_idx)
        self._mlp: MLP | MoE
        if isinstance(layer.mlp, MoESpec):
            self._mlp = MoE(layer.mlp, kernels, parameters, prefix)
        else:
            self._mlp = MLP(layer.mlp, kernels, parameters, prefix)
        self._around_attention = Sublayer(spec, kernels, parameters, f"{prefix}.attention")
        mlp_norm = "attention" if spec.has_shared_norm else "mlp"
        self._around_mlp = Sublayer(spec, kernels, parameters, f"{prefix}.{mlp_norm}")
        self._is_parallel, self._has_shared_norm = spec.is_parallel, spec.has_shared_norm

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """[num_tokens, hidden_size] -> the same shape."""

        def attend(normed: Tensor, residual: Tensor | None) -> Tensor:
            return self._attention(normed, step, residual)

        if not self._is_parallel:
            return self._around_mlp(self._around_attention(x, attend), self._mlp)
        normed = self._around_attention.normed(x)
        mlp_normed = normed if self._has_shared_norm else self._around_mlp.normed(x)
        return self._around_mlp.add(self._around_attention.add(x, normed, attend), mlp_normed, self._mlp)


class Decoder:
    """A decoder-only transformer.

    Args:
        spec: what it is.
        parameters: every name of spec.parameter_shapes(), on one device, in `dtype` or as 8-bit integers beside their
            scales; weights packed by `kernels`.
        max_model_len: longest context that will be asked of it.
        kernels: what its layers run on; None: the fastest for the parameters' device and dtype.
        dtype: of hidden states; None: that of the embedding table.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        parameters: Mapping[str, Tensor],
        max_model_len: int,
        kernels: Kernels | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        table = parameters["embed.weight"]
        self.spec, self.device = spec, table.device
        self.dtype = dtype = dtype or table.dtype
        self.vocab_size = spec.vocab_size
        kernels = kernels or select_kernels(table.device, dtype)
        self._embedding = Embedding(spec, kernels, parameters, dtype)
        ropes = dict.fromkeys(layer.rope for layer in spec.layers if layer.rope)
        self._rotaries = {rope: Rotary(rope, max_model_len, dtype, table.device) for rope in ropes}
        self._layers = [DecoderLayer(spec, kernels, parameters, layer_idx) for layer_idx in range(spec.num_layers)]
        self._native_layers = kernels.compile_layers(spec, parameters)
        self._mix = ResidualMix(spec.residual_mix.backout_layer, parameters) if spec.residual_mix else None
        self.logits = Head(spec.head, kernels, parameters)
        """[num_rows, hidden_size] -> [num_rows, vocab_size], float32 or wider."""

    def __call__(self, batch: BatchTensors, attention: AttentionBackend) -> Tensor:
        """Hidden states [num_tokens, hidden_size] of a step that `attention` has planned."""
        angles = {rope: rotary.lookup(batch.positions) for rope, rotary in self._rotaries.items()}
        if self._native_layers is not None and (paged_step := attention.paged_step) is not None:
            return self._native_layers(self._embed(batch), next(iter(angles.values()), None), paged_step)
        step = Step(batch.input_ids, batch.positions, angles, attention)
        # No name for the embeddings here: it would keep them until the last layer is done.
        if self._mix is None:
            return self._run(self._embed(batch), step)
        return self._run_mixed(self._mix, self._embed(batch), step)

    def _embed(self, batch: BatchTensors) -> Tensor:
        return self._embedding(batch.input_ids, batch.positions, batch.previous_ids)

    def _run(self, x: Tensor, step: Step) -> Tensor:
        for layer in self._layers:
            x = layer(x, step)
        return x

    def _run_mixed(self, mix: ResidualMix, x: Tensor, step: Step) -> Tensor:
        first = middle = x
        for layer_idx, layer in enumerate(self._layers):
            x = layer(mix.before(layer_idx, x, first), step)
            if layer_idx == mix.backout_layer:
                middle = x
        return mix.back_out(x, middle)
