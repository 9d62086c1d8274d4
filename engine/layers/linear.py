"""The matrix products."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor


class Linear:
    """x W^T + b with parameters `{name}.weight` [out, in] and, where there is one, `{name}.bias` [out]."""

    def __init__(self, parameters: Mapping[str, Tensor], name: str) -> None:
        self._weight = parameters[f"{name}.weight"]
        self._bias = parameters.get(f"{name}.bias")

    def __call__(self, x: Tensor) -> Tensor:
        """[num_tokens, in] -> [num_tokens, out]."""
        return F.linear(x, self._weight, self._bias)
