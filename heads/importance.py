"""How much the loss hangs on each head, without leaving it out."""

import torch
from torch import Tensor

from heads.subject import Subject


def head_importance(subject: Subject, windows: list[list[int]]) -> list[Tensor]:
    """I_h = E |dL/dxi_h| over windows, of a factor xi_h = 1 at the head's output (Michel, Levy and Neubig 2019, eq. 2).

    Returns:
        A layer each [num_q_heads].
    """
    factors = [factor.requires_grad_() for factor in subject.all_heads()]
    slopes = [torch.autograd.grad(subject.loss(window, factors), factors) for window in windows]
    return [torch.stack(of_layer).abs().mean(0) for of_layer in zip(*slopes, strict=True)]


def normalize(importance: list[Tensor]) -> list[Tensor]:
    """Each layer divided by its l2 norm, so that layers can be compared (section 4.1 there)."""
    return [layer / layer.norm().clamp(min=torch.finfo(layer.dtype).tiny) for layer in importance]
