"""The attention part of a layer: projections around the attention backend."""

from collections.abc import Mapping

from torch import Tensor

from engine.kernels.base import Kernels
from engine.layers.linear import Linear
from engine.layers.query_growth import grow_queries
from engine.layers.step import Step
from engine.layers.turn import Turn
from engine.layers.value_embedding import ValueEmbedding
from engine.models.spec import LayerSpec


class Attention:
    """Queries, keys and values of one layer, what they attend to, and the output projection."""

    def __init__(
        self, spec: LayerSpec, kernels: Kernels, parameters: Mapping[str, Tensor], prefix: str, layer_idx: int
    ) -> None:
        self._spec, self._layer_idx = spec, layer_idx
        self._qkv = Linear(kernels, parameters, f"{prefix}.qkv")
        self._turn_and_store = Turn(spec, kernels, parameters, prefix)
        self._o = Linear(kernels, parameters, f"{prefix}.o")
        self._sinks = parameters.get(f"{prefix}.sinks")
        self._value_embedding: ValueEmbedding | None = None
        if spec.value_embedding:
            self._value_embedding = ValueEmbedding(spec.value_embedding, kernels, parameters, prefix)

    def __call__(self, x: Tensor, step: Step, residual: Tensor | None = None) -> Tensor:
        """[num_tokens, hidden_size] -> the same shape, added to `residual` where there is one."""
        q, k, v = self._project(x, step)
        q = self._turn_and_store(q, k, v, step, step.attention.kv_target(self._layer_idx))
        if self._spec.query_growth:
            q = grow_queries(q, step.positions, self._spec.query_growth)
        attended = step.attention.forward(self._layer_idx, q, self._sinks)
        return self._o(attended, residual)

    def _project(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value heads, each [num_tokens, num_heads, head_dim]."""
        spec = self._spec
        qkv = self._qkv(x)
        if spec.qkv_clip is not None:
            qkv = qkv.clamp(-spec.qkv_clip, spec.qkv_clip)
        # Slices, not a split: only views that come one by one can be changed in place under autograd (engine/observing.py).
        k_start, v_start = spec.q_width, spec.q_width + spec.k_width
        q = qkv[:, :k_start].unflatten(-1, (spec.num_q_heads, spec.k_head_dim))
        k = qkv[:, k_start:v_start].unflatten(-1, (spec.num_kv_heads, spec.k_head_dim))
        v = qkv[:, v_start:].unflatten(-1, (spec.num_kv_heads, spec.v_head_dim))
        return q, k, v if self._value_embedding is None else self._value_embedding(v, x, step.input_ids)
