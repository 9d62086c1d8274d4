"""Queries that grow with their position."""

from torch import Tensor

from engine.models.spec import QueryGrowthSpec


def grow_queries(q: Tensor, positions: Tensor, spec: QueryGrowthSpec) -> Tensor:
    """Q * (1 + beta * ln(1 + floor(position / period))).

    Args:
        q: [num_tokens, num_q_heads, head_dim].
        positions: [num_tokens] int64.
        spec: beta and period.

    Returns:
        The shape and dtype of q.
    """
    growth = 1.0 + spec.beta * (positions // spec.period).double().log1p()
    return q * growth.to(q.dtype).view(-1, 1, 1)
