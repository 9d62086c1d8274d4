"""The arithmetic of sampling in plain PyTorch: penalties, truncation, and a draw that a seed fixes."""

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on the seed and the output position alone: no state, so no order of requests,
    no preemption and no batch changes it. SplitMix64 (Steele, Lea, Flood 2014) applied to both.
    """
    mixed = _splitmix64(_splitmix64(seed & _MASK) ^ position)
    return (mixed >> 11) / (1 << 53)


def _splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def apply_penalties(
    logits: Tensor,
    prompt_token_ids: Tensor,
    output_token_ids: Tensor,
    *,
    repetition_penalty: float,
    presence_penalty: float,
    frequency_penalty: float,
) -> None:
    """Penalise tokens that were seen, in place; touches their logits only, and waits for no value on the device.

    Args:
        logits: [vocab_size].
        prompt_token_ids: [num_prompt_tokens] int64; count for repetition_penalty only.
        output_token_ids: [num_output_tokens] int64.
        repetition_penalty: divides positive logits and multiplies negative ones (Keskar et al. 2019, section 4.1).
        presence_penalty: subtracted once.
        frequency_penalty: subtracted for each occurrence.
    """
    counts = torch.zeros_like(logits)
    counts.index_add_(0, output_token_ids, torch.ones_like(output_token_ids, dtype=logits.dtype))
    if repetition_penalty != 1:
        is_seen = (counts > 0).index_fill_(0, prompt_token_ids, 1)
        penalized = torch.where(logits > 0, logits / repetition_penalty, logits * repetition_penalty)
        logits.copy_(torch.where(is_seen, penalized, logits))
    logits -= torch.where(counts > 0, presence_penalty + frequency_penalty * counts, 0.0)


def apply_token_mask(logits: Tensor, rows: Tensor, token_mask: Tensor) -> None:
    """Rule out all tokens of some rows but those that the mask names, in place.

    Args:
        logits: [num_logit_rows, vocab_size].
        rows: [num_rows] int64, none twice.
        token_mask: [num_rows, ceil(vocab_size / 64)] int64, a bit for each token, lowest first; 1: it may come out.
    """
    shifts = torch.arange(8, dtype=torch.uint8, device=logits.device)
    bits = (token_mask.view(torch.uint8).unsqueeze(-1) >> shifts) & 1  # bytes: words would take eight times the memory
    is_ruled_out = bits.flatten(1)[:, : logits.shape[-1]] == 0
    logits[rows] = logits[rows].masked_fill_(is_ruled_out, -torch.inf)


def most_probable(logits: Tensor) -> Tensor:
    """The most probable token of each row; of equally probable ones the first.

    Args:
        logits: [num_rows, vocab_size].

    Returns:
        [num_rows] int64.
    """
    return logits.argmax(dim=-1)


def draw(logits: Tensor, temperature: Tensor, uniform: Tensor) -> Tensor:
    """A random token for each row.

    Args:
        logits: [num_rows, vocab_size].
        temperature: [num_rows], of the logits' dtype, over 0.
        uniform: [num_rows] float64 in [0, 1): see `uniform`.

    Returns:
        [num_rows] int64.
    """
    return inverse_cdf((logits / temperature.unsqueeze(1)).softmax(dim=-1), uniform)


def draw_truncated(
    logits: Tensor, temperature: Tensor, uniform: Tensor, *, top_k: Tensor, top_p: Tensor, min_p: Tensor
) -> Tensor:
    """A random token for each row, among the most probable ones.

    Args:
        logits: [num_rows, vocab_size].
        temperature: [num_rows], of the logits' dtype, over 0.
        uniform: [num_rows] float64 in [0, 1).
        top_k: [num_rows] int64, as in `truncate`.
        top_p: [num_rows], of the logits' dtype, as in `truncate`.
        min_p: [num_rows], of the logits' dtype, as in `truncate`.

    Returns:
        [num_rows] int64.
    """
    scaled = logits / temperature.unsqueeze(1)
    columns = {"top_k": top_k.unsqueeze(1), "top_p": top_p.unsqueeze(1), "min_p": min_p.unsqueeze(1)}
    probs, order = truncate(scaled, **columns)
    return order.gather(1, inverse_cdf(probs, uniform).unsqueeze(1)).squeeze(1)


def truncate(logits: Tensor, *, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the most probable tokens of every row: top_k first, then of the renormalised rest top_p and min_p.

    Args:
        logits: [num_rows, vocab_size], divided by the temperature.
        top_k: [num_rows, 1], number of tokens to keep.
        top_p: [num_rows, 1], share of the probability to reach (Holtzman et al. 2020, section 3.1).
        min_p: [num_rows, 1], least probability relative to the most probable token's.

    Returns:
        Probabilities [num_rows, vocab_size] in descending order, 0 where dropped, not renormalised; and the token id
        at each place, [num_rows, vocab_size] int64.
    """
    values, order = logits.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    probs = values.masked_fill(rank >= top_k, -torch.inf).softmax(dim=-1)
    # In float32 the last of many tokens would begin at the whole share, and top_p = 1 would drop them.
    before = probs.cumsum(dim=-1, dtype=torch.float64)
    limit = top_p * before[:, -1:]
    kept = (before.sub_(probs) < limit) & (probs >= min_p * probs[:, :1])
    kept[:, 0] = True
    return probs * kept, order


def inverse_cdf(probs: Tensor, draws: Tensor) -> Tensor:
    """The first place where the running sum of a row's probabilities passes draw * total.

    Args:
        probs: [num_rows, vocab_size], not negative; rows need not sum to 1.
        draws: [num_rows] float64 in [0, 1).

    Returns:
        [num_rows] int64, never a place of probability 0.
    """
    cdf = probs.cumsum(dim=-1, dtype=torch.float64)
    targets = draws.unsqueeze(1) * cdf[:, -1:]
    places = torch.searchsorted(cdf, targets, right=True).squeeze(1)
    return places.clamp_(max=probs.shape[-1] - 1)
