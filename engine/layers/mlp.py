"""The feed-forward part of a layer."""

from collections.abc import Mapping

from torch import Tensor

from engine.kernels import reference
from engine.layers.linear import Linear
from engine.models.spec import MLPSpec


class MLP:
    """down(act(gate(x)) * up(x)), gate and up as one product, or down(act(up(x)))."""

    def __init__(self, spec: MLPSpec, parameters: Mapping[str, Tensor], prefix: str) -> None:
        self._spec = spec
        self._up = Linear(parameters, f"{prefix}.gate_up" if spec.is_gated else f"{prefix}.up")
        self._down = Linear(parameters, f"{prefix}.down")

    def __call__(self, x: Tensor) -> Tensor:
        """[num_tokens, hidden_size] -> the same shape."""
        up = self._up(x)
        if self._spec.is_gated:
            return self._down(reference.activate_and_multiply(up, self._spec.activation))
        return self._down(reference.activate(up, self._spec.activation))
