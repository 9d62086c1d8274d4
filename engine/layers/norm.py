"""RMSNorm and LayerNorm."""

from collections.abc import Mapping

from torch import Tensor

from engine.kernels.base import Kernels
from engine.models.spec import NormKind, NormSpec


class Norm:
    """The norm of parameters `{name}.weight` and `{name}.bias`, as far as the spec has them."""

    def __init__(self, spec: NormSpec, kernels: Kernels, parameters: Mapping[str, Tensor], name: str) -> None:
        self._spec = spec
        self._kernels = kernels
        self._weight = parameters.get(f"{name}.weight")
        self._bias = parameters.get(f"{name}.bias")

    def __call__(self, x: Tensor) -> Tensor:
        """[num_tokens, ..., width] -> the same shape, normalised over the width."""
        spec = self._spec
        if spec.kind is NormKind.RMS:
            return self._kernels.rms_norm(x, self._weight, spec.eps, weight_offset=spec.weight_offset)
        return self._kernels.layer_norm(x, self._weight, self._bias, spec.eps, weight_offset=spec.weight_offset)
