"""What happens to queries and keys between their projection and the cache: norms, rotation, the cache write."""

from collections.abc import Mapping

from torch import Tensor

from engine.kernels.base import HeadNorm, Kernels, KVTarget, RopeAndStore, Rotation
from engine.layers.qk_norm import QKNorm
from engine.layers.step import Step
from engine.models.spec import LayerSpec, NormKind, QKNormScope, QKNormSpec


class Turn:
    """The layer's norms of queries and keys, and its rotation, as far as the spec has them.

    Heads that are rotated, after an RMSNorm or none, go to the cache in one kernel where there is one.
    """

    def __init__(self, spec: LayerSpec, kernels: Kernels, parameters: Mapping[str, Tensor], prefix: str) -> None:
        self._kernels, self._rope = kernels, spec.rope
        self._norms: tuple[QKNorm, QKNorm] | None = None
        self._is_norm_first = spec.qk_norm is not None and not spec.qk_norm.is_after_rope
        if spec.qk_norm:
            q_norm = QKNorm(spec.qk_norm, kernels, parameters, f"{prefix}.q_norm")
            self._norms = q_norm, QKNorm(spec.qk_norm, kernels, parameters, f"{prefix}.k_norm")
        self._rope_and_store: RopeAndStore | None = None
        if spec.qk_norm is None or is_head_norm(spec.qk_norm):
            self._rope_and_store, self._head_norm = kernels.rope_and_store, head_norm(spec.qk_norm, parameters, prefix)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, step: Step, target: KVTarget) -> Tensor:
        """Write keys and values into their slots.

        Args:
            q: [num_tokens, num_q_heads, k_head_dim], may be changed.
            k: [num_tokens, num_kv_heads, k_head_dim], may be changed.
            v: [num_tokens, num_kv_heads, v_head_dim].
            step: has the angles.
            target: where keys and values go.

        Returns:
            The queries, normalised and rotated, of the shape of q.
        """
        rotation = Rotation(*step.angles[self._rope], self._rope.is_interleaved) if self._rope else None
        if rotation and self._rope_and_store:
            return self._rope_and_store(q, k, v, target, rotation, norm=self._head_norm)
        if self._is_norm_first:
            q, k = self._normed(q, k)
        if rotation:
            for heads in (q, k):
                self._kernels.apply_rope(heads, rotation.cos, rotation.sin, is_interleaved=rotation.is_interleaved)
        if not self._is_norm_first:
            q, k = self._normed(q, k)
        self._kernels.store_kv(k, v, *target)
        return q

    def _normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return (self._norms[0](q), self._norms[1](k)) if self._norms else (q, k)


def is_head_norm(spec: QKNormSpec) -> bool:
    """Whether a HeadNorm says all of it: RMSNorm of each head for itself, before the rotation."""
    is_per_head = spec.scope is not QKNormScope.WIDTH
    return spec.norm.kind is NormKind.RMS and is_per_head and not spec.is_after_rope and spec.multiplier == 1.0


def head_norm(spec: QKNormSpec | None, parameters: Mapping[str, Tensor], prefix: str) -> HeadNorm | None:
    """The norm as the kernel takes it; None where there is none."""
    if spec is None:
        return None
    q_weight, k_weight = (parameters.get(f"{prefix}.{name}.weight") for name in ("q_norm", "k_norm"))
    return HeadNorm(q_weight, k_weight, spec.norm.eps, spec.norm.weight_offset)
