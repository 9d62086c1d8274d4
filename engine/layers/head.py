"""Hidden states to logits."""

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.kernels.base import Kernels
from engine.layers.linear import Linear
from engine.layers.norm import Norm
from engine.models.spec import HeadSpec


class Head:
    """The last norm, the output projection, and what is done to its logits."""

    def __init__(self, spec: HeadSpec, kernels: Kernels, parameters: Mapping[str, Tensor]) -> None:
        self._spec = spec
        self._norm = Norm(spec.norm, kernels, parameters, "norm") if spec.norm else None
        self._projection = Linear(kernels, parameters, "head_proj") if "head_proj.weight" in parameters else None
        # The table's weight and scales, where it is the projection too; a bias is the head's own.
        names = ("weight", "scale") if spec.is_tied else ()
        tied = {f"lm_head.{kind}": parameters[f"embed.{kind}"] for kind in names if f"embed.{kind}" in parameters}
        self._lm_head = Linear(kernels, {**parameters, **tied}, "lm_head")

    def __call__(self, hidden: Tensor) -> Tensor:
        """[num_rows, hidden_size] -> [num_rows, vocab_size], float32 or wider."""
        for part in (self._norm, self._projection):
            hidden = hidden if part is None else part(hidden)
        logits = self._lm_head(hidden, is_wide=True)
        if self._spec.multiplier != 1.0:
            logits = logits * self._spec.multiplier
        cap = self._spec.softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)
