"""Norms of queries and keys."""

from collections.abc import Mapping

from torch import Tensor

from engine.kernels.base import Kernels
from engine.layers.norm import Norm
from engine.models.spec import QKNormScope, QKNormSpec


class QKNorm:
    """The norm of parameters `{name}.weight` and `{name}.bias` over heads."""

    def __init__(self, spec: QKNormSpec, kernels: Kernels, parameters: Mapping[str, Tensor], name: str) -> None:
        self._norm = Norm(spec.norm, kernels, parameters, name)
        self._is_over_width = spec.scope is QKNormScope.WIDTH
        self._multiplier = spec.multiplier

    def __call__(self, x: Tensor) -> Tensor:
        """[num_tokens, num_heads, head_dim] -> the same shape, contiguous."""
        normed = self._norm(x.flatten(1)).view(x.shape) if self._is_over_width else self._norm(x)
        return normed if self._multiplier == 1.0 else normed * self._multiplier
