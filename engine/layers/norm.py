"""RMSNorm and LayerNorm."""

from collections.abc import Mapping

from torch import Tensor

from engine.kernels import reference
from engine.models.spec import NormKind, NormSpec


class Norm:
    """The norm of parameters `{name}.weight` (and `{name}.bias` for LayerNorm)."""

    def __init__(self, spec: NormSpec, parameters: Mapping[str, Tensor], name: str) -> None:
        self._spec = spec
        self._weight = parameters[f"{name}.weight"]
        self._bias = parameters[f"{name}.bias"] if spec.kind is NormKind.LAYER else None

    def __call__(self, x: Tensor) -> Tensor:
        """[num_tokens, hidden_size] -> the same shape."""
        if self._bias is None:
            return reference.rms_norm(x, self._weight, self._spec.eps)
        return reference.layer_norm(x, self._weight, self._bias, self._spec.eps)
