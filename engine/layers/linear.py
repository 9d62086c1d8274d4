"""The matrix products."""

from collections.abc import Mapping

from torch import Tensor

from engine.kernels.base import Kernels


class Linear:
    """x W^T + b with parameters `{name}.weight` [out, in] and, where there is one, `{name}.bias` [out].

    Where there is `{name}.scale`, the weight is made of 8-bit integers; engine/kernels/int8_linear.py has their shapes.
    """

    def __init__(self, kernels: Kernels, parameters: Mapping[str, Tensor], name: str) -> None:
        self._linear, self._linear_int8 = kernels.linear, kernels.linear_int8
        self._weight = parameters[f"{name}.weight"]
        self._scale = parameters.get(f"{name}.scale")
        self._bias = parameters.get(f"{name}.bias")

    def __call__(self, x: Tensor, residual: Tensor | None = None, *, is_wide: bool = False) -> Tensor:
        """[num_tokens, in] -> [num_tokens, out], added to `residual` of that shape where there is one.

        Args:
            x: the input.
            residual: see above.
            is_wide: whether the result is float32 at least.
        """
        if self._scale is None:
            return self._linear(x, self._weight, self._bias, residual, is_wide=is_wide)
        return self._linear_int8(x, self._weight, self._scale, self._bias, residual, is_wide=is_wide)


class GroupedLinear:
    """The same for weights [num_groups, out, in], a group of rows each."""

    def __init__(self, kernels: Kernels, parameters: Mapping[str, Tensor], name: str) -> None:
        self._linear, self._linear_int8 = kernels.grouped_linear, kernels.grouped_linear_int8
        self._weight = parameters[f"{name}.weight"]
        self._scale = parameters.get(f"{name}.scale")
        self._bias = parameters.get(f"{name}.bias")

    def __call__(self, x: Tensor, counts: Tensor) -> Tensor:
        """[num_rows, in], of each group as many rows as `counts` [num_groups] int64 says -> [num_rows, out]."""
        if self._scale is None:
            return self._linear(x, self._weight, self._bias, counts)
        return self._linear_int8(x, self._weight, self._scale, self._bias, counts)
