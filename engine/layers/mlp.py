"""The dense feed-forward part of a layer."""

from collections.abc import Mapping

from torch import Tensor

from engine.kernels.base import Kernels
from engine.layers.linear import Linear
from engine.models.spec import MLPSpec


class MLP:
    """down(act(gate(x)) * up(x)), gate and up as one product, or down(act(up(x)))."""

    def __init__(self, spec: MLPSpec, kernels: Kernels, parameters: Mapping[str, Tensor], prefix: str) -> None:
        self._activation = spec.activation
        self._activate = kernels.activate_and_multiply if spec.is_gated else kernels.activate
        self._up = Linear(kernels, parameters, f"{prefix}.{spec.up_name}")
        self._down = Linear(kernels, parameters, f"{prefix}.down")

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[num_tokens, hidden_size] -> the same shape, added to `residual` where there is one."""
        return self._down(self._activate(self._up(x), self._activation), residual)
