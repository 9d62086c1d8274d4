"""The matrix products."""

from collections.abc import Mapping

from torch import Tensor

from engine.kernels.base import Kernels


class Linear:
    """x W^T + b with parameters `{name}.weight` [out, in] and, where there is one, `{name}.bias` [out]."""

    def __init__(self, kernels: Kernels, parameters: Mapping[str, Tensor], name: str) -> None:
        self._linear = kernels.linear
        self._weight = parameters[f"{name}.weight"]
        self._bias = parameters.get(f"{name}.bias")

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[num_tokens, in] -> [num_tokens, out], added to `residual` of that shape where there is one."""
        return self._linear(x, self._weight, self._bias, residual)
