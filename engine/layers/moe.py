"""Mixture of experts: the router, each token through the experts it chose, and what all tokens share."""

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.kernels.base import Kernels
from engine.layers.linear import GroupedLinear, Linear
from engine.layers.mlp import MLP
from engine.models.spec import MoESpec


class RoutedExperts:
    """The experts that a router chooses among (Shazeer et al. 2017, eq. 1).

    Tokens are sorted by expert, so that an expert's weights are read once a step for all tokens that chose it.
    """

    def __init__(self, spec: MoESpec, kernels: Kernels, parameters: Mapping[str, Tensor], prefix: str) -> None:
        self._spec = spec
        self._router = Linear(kernels, parameters, f"{prefix}.router")
        self._activate = kernels.activate_and_multiply if spec.expert.is_gated else kernels.activate
        self._up = GroupedLinear(kernels, parameters, f"{prefix}.experts.{spec.expert.up_name}")
        self._down = GroupedLinear(kernels, parameters, f"{prefix}.experts.down")

    def __call__(self, x: Tensor) -> Tensor:
        """[num_tokens, hidden_size] -> the same shape."""
        weights, experts = self.route(x)
        order = experts.flatten().argsort(stable=True)
        token_idx = order // self._spec.num_experts_per_token
        counts = torch.bincount(experts.flatten(), minlength=self._spec.num_experts)
        up = self._up(x[token_idx], counts)
        activated = self._activate(up, self._spec.expert.activation)
        out = self._down(activated, counts)
        # Back in the order of the tokens, each with its experts by rank: the sum does not depend on the rest of the batch.
        by_token = torch.empty_like(out).index_copy_(0, order, out)
        return (by_token.view(*experts.shape, -1) * weights.unsqueeze(-1)).sum(1)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (in x's dtype) and indices (int64) of each token's experts, both [num_tokens, num_experts_per_token]."""
        spec = self._spec
        logits = self._router(x)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        chosen, experts = logits.topk(spec.num_experts_per_token, dim=-1)
        if spec.is_renormalized:
            return chosen.softmax(-1).to(x.dtype), experts  # the same as dividing the chosen shares by their sum
        return (chosen - logits.logsumexp(-1, keepdim=True)).exp().to(x.dtype), experts


class MoE:
    """Routed experts, and beside them an MLP that every token goes through."""

    def __init__(self, spec: MoESpec, kernels: Kernels, parameters: Mapping[str, Tensor], prefix: str) -> None:
        self._experts = RoutedExperts(spec, kernels, parameters, prefix)
        self._shared = MLP(spec.shared, kernels, parameters, f"{prefix}.shared") if spec.shared else None
        self._gate = Linear(kernels, parameters, f"{prefix}.shared_gate") if spec.has_shared_gate else None

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[num_tokens, hidden_size] -> the same shape, added to `residual` where there is one."""
        out = self._experts(x)
        if self._shared is not None:
            shared = self._shared(x)
            out = out + (shared if self._gate is None else shared * self._gate(x).sigmoid())
        return out if residual is None else residual + out
