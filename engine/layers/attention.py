"""The attention part of a layer: projections, norms and rotation around the attention backend."""

from collections.abc import Mapping

from torch import Tensor

from engine.kernels.base import Kernels
from engine.layers.linear import Linear
from engine.layers.qk_norm import QKNorm
from engine.layers.query_growth import grow_queries
from engine.layers.step import Step
from engine.layers.value_embedding import ValueEmbedding
from engine.models.spec import LayerSpec


class Attention:
    """Queries, keys and values of one layer, what they attend to, and the output projection."""

    def __init__(
        self, spec: LayerSpec, kernels: Kernels, parameters: Mapping[str, Tensor], prefix: str, layer_idx: int
    ) -> None:
        self._spec, self._layer_idx = spec, layer_idx
        self._apply_rope = kernels.apply_rope
        self._qkv = Linear(kernels, parameters, f"{prefix}.qkv")
        self._o = Linear(kernels, parameters, f"{prefix}.o")
        self._sinks = parameters.get(f"{prefix}.sinks")
        self._norms: tuple[QKNorm, QKNorm] | None = None
        if spec.qk_norm:
            q_norm = QKNorm(spec.qk_norm, kernels, parameters, f"{prefix}.q_norm")
            self._norms = q_norm, QKNorm(spec.qk_norm, kernels, parameters, f"{prefix}.k_norm")
        self._value_embedding: ValueEmbedding | None = None
        if spec.value_embedding:
            self._value_embedding = ValueEmbedding(spec.value_embedding, kernels, parameters, prefix)

    def __call__(self, x: Tensor, step: Step, residual: Tensor | None = None) -> Tensor:
        """[num_tokens, hidden_size] -> the same shape, added to `residual` where there is one."""
        q, k, v = self._project(x, step)
        attended = step.attention.forward(self._layer_idx, q, k, v, self._sinks)
        return self._o(attended, residual)

    def _project(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value heads, each [num_tokens, num_heads, head_dim]."""
        spec = self._spec
        qkv = self._qkv(x)
        if spec.qkv_clip is not None:
            qkv = qkv.clamp(-spec.qkv_clip, spec.qkv_clip)
        # Slices, not a split: only views that come one by one can be changed in place under autograd (engine/observing.py).
        qk, v = qkv[:, : spec.q_width + spec.k_width], qkv[:, spec.q_width + spec.k_width :]
        q, k = self._turn(qk.unflatten(-1, (spec.num_q_heads + spec.num_kv_heads, spec.k_head_dim)), step)
        if spec.query_growth:
            q = grow_queries(q, step.positions, spec.query_growth)
        v = v.unflatten(-1, (spec.num_kv_heads, spec.v_head_dim))
        return q, k, v if self._value_embedding is None else self._value_embedding(v, x, step.input_ids)

    def _turn(self, qk: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Split queries from keys, normalised and rotated as far as the spec says. Side effects: changes `qk`."""
        spec = self._spec
        angles = step.angles[spec.rope] if spec.rope else None
        is_interleaved = spec.rope is not None and spec.rope.is_interleaved
        q, k = qk[:, : spec.num_q_heads], qk[:, spec.num_q_heads :]
        if self._norms is not None and spec.qk_norm and not spec.qk_norm.is_after_rope:
            q, k = (norm(heads) for norm, heads in zip(self._norms, (q, k), strict=True))
            if angles:
                self._apply_rope(q, *angles, is_interleaved=is_interleaved)
                self._apply_rope(k, *angles, is_interleaved=is_interleaved)
            return q, k
        if angles:
            self._apply_rope(qk, *angles, is_interleaved=is_interleaved)
        if self._norms is not None:
            q, k = (norm(heads) for norm, heads in zip(self._norms, (q, k), strict=True))
        return q, k
