"""RMSNorm and LayerNorm."""

from collections.abc import Mapping

from torch import Tensor

from engine.kernels.base import Kernels
from engine.models.spec import NormKind, NormSpec


class Norm:
    """The norm of parameters `{name}.weight` (and `{name}.bias` for LayerNorm)."""

    def __init__(self, spec: NormSpec, kernels: Kernels, parameters: Mapping[str, Tensor], name: str) -> None:
        self._eps = spec.eps
        self._kernels = kernels
        self._weight = parameters[f"{name}.weight"]
        self._bias = parameters[f"{name}.bias"] if spec.kind is NormKind.LAYER else None

    def __call__(self, x: Tensor) -> Tensor:
        """[num_tokens, hidden_size] -> the same shape."""
        if self._bias is None:
            return self._kernels.rms_norm(x, self._weight, self._eps)
        return self._kernels.layer_norm(x, self._weight, self._bias, self._eps)
