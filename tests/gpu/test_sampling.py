"""Triton's draws over real vocabularies: the reference's tokens."""

import pytest
import torch

from engine.kernels import sampling as reference

pytest.importorskip("triton")


@pytest.mark.parametrize("vocab_size", [49152, 151936])
@pytest.mark.parametrize("limits", [(50, 1.0, 0.0), (1 << 20, 0.9, 0.0), (1 << 20, 1.0, 0.05), (40, 0.95, 0.02)])
def test_truncated_draws(limits: tuple[int, float, float], vocab_size: int, gpu: torch.device) -> None:
    """Sums in another order move a border by a rounding: of 256 draws one may fall on the other side of it."""
    from engine.kernels.triton import sampling

    num_rows = 256
    logits = 4 * torch.randn(num_rows, vocab_size, device=gpu)
    temperature = torch.full((num_rows,), 0.8, device=gpu)
    uniform = torch.rand(num_rows, dtype=torch.float64, device=gpu)
    top_k, top_p, min_p = limits
    options = {
        "top_k": torch.full((num_rows,), min(top_k, vocab_size), device=gpu),
        "top_p": torch.full((num_rows,), top_p, device=gpu),
        "min_p": torch.full((num_rows,), min_p, device=gpu),
    }
    drawn = sampling.draw_truncated(logits, temperature, uniform, **options)
    expected = reference.draw_truncated(logits, temperature, uniform, **options)
    assert (drawn != expected).sum() <= 1
    plain = sampling.draw(logits, temperature, uniform)
    assert (plain != reference.draw(logits, temperature, uniform)).sum() <= 1
