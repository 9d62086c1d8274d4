"""Arrays packed into one buffer, and back out of it as views."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.transfers import Array, Fetch, pack, to_device, unpack

ARRAYS = [
    np.arange(6, dtype=np.int64).reshape(2, 3) - 3,
    np.array([0.1, -2.5, np.nan, np.inf]),
    np.empty((3, 0), dtype=np.int64),
    np.arange(12, dtype=np.int64).reshape(3, 4)[:, ::2],
]


def on_cpu(arrays: list[Array]) -> list[Tensor]:
    return to_device(arrays, torch.device("cpu"))


def through_a_buffer(arrays: list[Array]) -> list[Tensor]:
    return unpack(pack(arrays), arrays)


@pytest.mark.parametrize("send", [on_cpu, through_a_buffer])
def test_arrays_arrive_as_they_were(send: Callable[[list[Array]], list[Tensor]]) -> None:
    for tensor, array in zip(send(ARRAYS), ARRAYS, strict=True):
        assert tensor.is_contiguous()
        np.testing.assert_array_equal(tensor.numpy(), array, strict=True)


def test_the_parts_are_views_of_one_buffer() -> None:
    packed = pack(ARRAYS)
    assert packed.shape == (6 + 4 + 0 + 6,)
    ints, *_ = unpack(packed, ARRAYS)
    packed[0] = 77
    assert ints[0, 0] == 77


def test_a_fetch_gives_what_it_was_made_of() -> None:
    tensors = [torch.arange(3), torch.tensor([[0.5]])]
    first, second = Fetch(tensors).wait()
    assert first.tolist() == [0, 1, 2]
    assert second.tolist() == [[0.5]]
