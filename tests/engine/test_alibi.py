"""ALiBi: the slopes of every number of heads, and where the bias enters the scores."""

import math

import pytest
import torch

from engine.kernels import reference_attention
from engine.models.alibi import alibi_slopes
from kvcache.storage import LayerCache

HEAD_COUNTS = range(1, 129)


def test_eight_heads_halve_the_slope_from_one_to_the_next() -> None:
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))


def test_sixteen_heads_have_the_slopes_of_eight_and_their_geometric_means() -> None:
    slopes = alibi_slopes(16)
    assert slopes[1::2] == pytest.approx(alibi_slopes(8))
    before = (1.0, *alibi_slopes(8)[:-1])
    assert slopes[::2] == pytest.approx([math.sqrt(a * b) for a, b in zip(before, alibi_slopes(8), strict=True)])


def test_a_number_between_powers_of_two_takes_every_other_slope_of_the_next_one() -> None:
    assert alibi_slopes(12) == pytest.approx((*alibi_slopes(8), *alibi_slopes(16)[:8:2]))


def test_the_largest_bias_moves_the_last_slope() -> None:
    assert alibi_slopes(8, bias_max=16) == tuple(2.0 ** (-2 * i) for i in range(1, 9))


@pytest.mark.parametrize("num_heads", HEAD_COUNTS)
def test_slopes_are_blooms(num_heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    biases = build_alibi_tensor(torch.ones(1, 2), num_heads, torch.float32)
    assert alibi_slopes(num_heads) == pytest.approx(biases[:, 0, 1].tolist(), rel=1e-5)


@pytest.mark.parametrize("bias_max", [8, 16])
@pytest.mark.parametrize("num_heads", HEAD_COUNTS)
def test_slopes_are_mpts(num_heads: int, bias_max: int) -> None:
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    biases = build_mpt_alibi_tensor(num_heads, 2, bias_max)
    assert alibi_slopes(num_heads, bias_max) == pytest.approx((-biases[:, 0, 0]).tolist(), rel=1e-5)


def test_the_bias_is_the_slope_times_the_distance() -> None:
    bias = reference_attention.alibi_bias(torch.tensor([0.5, 0.25]), torch.tensor([[2]]), torch.arange(3))
    assert bias.tolist() == [[[[-1.0, -0.5, 0.0]], [[-0.5, -0.25, 0.0]]]]


@pytest.mark.parametrize("softmax_scale", [0.1, 1.0, 10.0])
def test_the_softmax_scale_does_not_touch_the_bias(softmax_scale: float) -> None:
    """Keys of 0 leave nothing in the scores but the bias: the weights are the softmax of -slope * distance."""
    num_keys, slope = 4, 0.7
    q, keys = torch.randn(1, 1, 1, num_keys), torch.zeros(1, num_keys, 1, num_keys)
    values = torch.eye(num_keys).view(1, num_keys, 1, num_keys)
    positions = torch.tensor([[num_keys - 1]])
    weights = reference_attention.grouped_attention(
        q,
        LayerCache(keys, values),
        torch.arange(num_keys).unsqueeze(0),
        reference_attention.causal_mask(positions, torch.arange(num_keys), None),
        softmax_scale=softmax_scale,
        bias=reference_attention.alibi_bias(torch.tensor([slope]), positions, torch.arange(num_keys)),
    )
    expected = torch.softmax(torch.tensor([-slope * distance for distance in (3, 2, 1, 0)]), -1)
    torch.testing.assert_close(weights.flatten(), expected)
