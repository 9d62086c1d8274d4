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
        weight = parameters["embed.weight" if spec.is_tied else "lm_head.weight"]
        bias = {"lm_head.bias": parameters["lm_head.bias"]} if spec.has_bias else {}
        self._lm_head = Linear(kernels, {"lm_head.weight": weight, **bias}, "lm_head")

    def __call__(self, hidden: Tensor) -> Tensor:
        """[num_rows, hidden_size] -> [num_rows, vocab_size], float32 or wider."""
        for part in (self._norm, self._projection):
            hidden = hidden if part is None else part(hidden)
        logits = self._lm_head(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self._spec.multiplier != 1.0:
            logits = logits * self._spec.multiplier
        cap = self._spec.softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)
