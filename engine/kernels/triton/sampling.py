"""Launches draws of tokens: one program a row."""

import torch
from torch import Tensor

from engine.kernels.sampling import most_probable
from engine.kernels.triton.checks import check
from engine.kernels.triton.jit.sampling import draw_kernel, draw_truncated_kernel
from engine.kernels.triton.tiles import power_of_two

__all__ = ["draw", "draw_truncated", "most_probable"]

MAX_BLOCK = 8192
"""Logits that a program looks at together: 16 a thread."""

NUM_WARPS = 16


def draw(logits: Tensor, temperature: Tensor, uniform: Tensor) -> Tensor:
    """See sampling.draw.

    Raises:
        ValueError: a shape, dtype or stride does not fit.
    """
    num_rows, vocab_size = _check_rows(logits, temperature, uniform)
    out = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    if num_rows:
        draw_kernel[(num_rows,)](
            *(out, logits, temperature, uniform, vocab_size, logits.stride(0)),
            BLOCK=min(MAX_BLOCK, power_of_two(vocab_size)),
            num_warps=NUM_WARPS,
        )
    return out


def draw_truncated(
    logits: Tensor, temperature: Tensor, uniform: Tensor, *, top_k: Tensor, top_p: Tensor, min_p: Tensor
) -> Tensor:
    """See sampling.draw_truncated.

    Raises:
        ValueError: a shape, dtype or stride does not fit.
    """
    num_rows, vocab_size = _check_rows(logits, temperature, uniform)
    check("top_k", top_k, (num_rows,), torch.int64)
    check("top_p", top_p, (num_rows,), logits.dtype)
    check("min_p", min_p, (num_rows,), logits.dtype)
    out = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    if num_rows:
        draw_truncated_kernel[(num_rows,)](
            *(out, logits, temperature, uniform, top_k, top_p, min_p, vocab_size, logits.stride(0)),
            BLOCK=min(MAX_BLOCK, power_of_two(vocab_size)),
            num_warps=NUM_WARPS,
        )
    return out


def _check_rows(logits: Tensor, temperature: Tensor, uniform: Tensor) -> tuple[int, int]:
    num_rows, vocab_size = logits.shape
    check("logits", logits, (num_rows, vocab_size), torch.float32)
    check("temperature", temperature, (num_rows,), torch.float32)
    check("uniform", uniform, (num_rows,), torch.float64)
    return num_rows, vocab_size
