"""What a head looks at. All of it is read off attention weights [num_heads, seq_len, seq_len], rows being queries.

A sequence's first token can only look at itself and is left out.
"""

import torch
from torch import Tensor


def entropy(weights: Tensor) -> Tensor:
    """Mean entropy of a token's attention, in nats, [num_heads]."""
    mean: Tensor = torch.special.entr(weights[:, 1:]).sum(-1).mean(-1)
    return mean


def previous_token(weights: Tensor) -> Tensor:
    """Mean share that goes to the token before, [num_heads]."""
    return weights.diagonal(-1, 1, 2).mean(-1)


def first_token(weights: Tensor) -> Tensor:
    """Mean share that goes to the sequence's first token, [num_heads]."""
    return weights[:, 1:, 0].mean(-1)


def share_of(weights: Tensor, is_counted: Tensor) -> Tensor:
    """Mean share that goes to the tokens where `is_counted` [seq_len] is True, [num_heads]."""
    return (weights[:, 1:] * is_counted.to(weights.dtype)).sum(-1).mean(-1)


def induction(weights: Tensor) -> Tensor:
    """Mean share that goes to the token behind the earlier occurrence of this one, [num_heads] (Olsson et al. 2022).

    The sequence is a text of half its length, twice: seen from a token of the second half, that is half less one back.
    """
    half = weights.shape[-1] // 2
    return weights.diagonal(-(half - 1), 1, 2)[:, 1:].mean(-1)


def cosine_similarity(weights: Tensor) -> Tensor:
    """Of the attention maps of two heads each, [num_heads, num_heads]."""
    flat = torch.nn.functional.normalize(weights[:, 1:].flatten(1), dim=1)
    return flat @ flat.T


def js_divergence(weights: Tensor) -> Tensor:
    """Mean Jensen-Shannon divergence of what two heads look at (Lin 1991), in bits, [num_heads, num_heads]: 0 to 1."""
    rows = weights[:, 1:]
    # What goes to a learned sink is missing in the row: it counts as one more place.
    rows = torch.cat((rows, (1 - rows.sum(-1, keepdim=True)).clamp(min=0)), -1)
    own = torch.special.entr(rows).sum(-1)
    divergences = [
        torch.special.entr((head + rows) / 2).sum(-1) - (own_of_head + own) / 2
        for head, own_of_head in zip(rows, own, strict=True)
    ]
    return torch.stack(divergences).mean(-1).clamp(min=0) / torch.log(torch.tensor(2.0))
