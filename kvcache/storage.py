"""The tensors behind the blocks. Their measured bytes are geometry's, to the byte."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from kvcache.geometry import KVGeometry, LayerGeometry

SCALE_DTYPE = torch.float16
"""Of the scales that 8-bit keys and values have. The range is enough (engine/kernels/quantization.py), and float32 would
make the cache 3% larger at a head_dim of 64 without being more exact (docs/kv-cache-8bit.md)."""

EIGHT_BIT_DTYPES = (torch.int8, torch.float8_e4m3fn)


class LayerCache(NamedTuple):
    """The paged cache of one layer, as kernels see it.

    Attributes:
        k: [num_blocks, block_size, num_kv_heads, k_head_dim].
        v: [num_blocks, block_size, num_kv_heads, v_head_dim].
        k_scale: [num_blocks, block_size, num_kv_heads] float16 where k and v are 8 bits wide: a token's key in a head is
            its numbers in k times this. None: k holds the keys themselves.
        v_scale: as k_scale, for the values.
    """

    k: Tensor
    v: Tensor
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None


class KVStorage:
    """Keys and values of every block of every layer.

    A layer whose keys and values are equally wide is one tensor [2, num_blocks, block_size, num_kv_heads, head_dim];
    otherwise keys and values are a tensor each. The i-th layers of all groups share a tensor: a block belongs to one group
    at a time (kvcache/layer_groups.py). Keys and values of 8 bits have scales, a tensor [2, num_blocks, block_size,
    num_kv_heads] beside them.

    The memory is zeroed, which does two things. Slots that no token was written to are read by kernels that take whole
    blocks and mask afterwards, and 0 * NaN is NaN: whatever lay in that memory could get into an output. And the
    operating system hands out a page when it is written to: a pool that does not fit fails now, not under load.

    Args:
        geometry: heads and block size.
        num_blocks: blocks in every layer.
        dtype: of the numbers kept; as wide as the geometry says.
        device: where they are.

    Raises:
        ValueError: `dtype` or its scales are not as wide as the geometry says, or `num_blocks` is less than 1.
    """

    def __init__(self, geometry: KVGeometry, num_blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        if dtype.itemsize != geometry.dtype_bytes:
            raise ValueError(f"dtype must take {geometry.dtype_bytes} bytes, got {dtype} of {dtype.itemsize}")
        scale_bytes = SCALE_DTYPE.itemsize if dtype in EIGHT_BIT_DTYPES else 0
        if scale_bytes != geometry.scale_bytes:
            raise ValueError(f"scales of {dtype} take {scale_bytes} bytes, got a geometry with {geometry.scale_bytes}")
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
        self.geometry, self.num_blocks = geometry, num_blocks
        shape = (num_blocks, geometry.block_size)
        self._owned: list[Tensor] = []
        # Views are made once: decoding asks for them in every layer of every step.
        self._layers: dict[int, LayerCache] = {}
        for layer_indices in itertools.zip_longest(*(group.layer_indices for group in geometry.groups)):
            sharing = [layer_idx for layer_idx in layer_indices if layer_idx is not None]
            layer = geometry.layers[sharing[0]]
            tensors = [_zeroed(dims, dtype, device) for dims in _layer_shapes(layer, shape)]
            keys, values = tensors if len(tensors) == 2 else tensors[0].unbind(0)
            cache = LayerCache(keys, values)
            if scale_bytes:
                tensors.append(_zeroed((2, *shape, layer.num_kv_heads), SCALE_DTYPE, device))
                cache = LayerCache(keys, values, *tensors[-1].unbind(0))
            self._owned += tensors
            self._layers |= dict.fromkeys(sharing, cache)

    def layer(self, layer_idx: int) -> LayerCache:
        """Keys, values and scales of one layer: contiguous views."""
        return self._layers[layer_idx]

    def k(self, layer_idx: int) -> Tensor:
        """Keys of one layer: a contiguous view [num_blocks, block_size, num_kv_heads, k_head_dim]."""
        return self._layers[layer_idx].k

    def v(self, layer_idx: int) -> Tensor:
        """Values of one layer: a contiguous view [num_blocks, block_size, num_kv_heads, v_head_dim]."""
        return self._layers[layer_idx].v

    @property
    def nbytes(self) -> int:
        """Bytes of the memory behind the tensors, as PyTorch reports it."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._owned)


def _layer_shapes(layer: LayerGeometry, shape: tuple[int, int]) -> list[tuple[int, ...]]:
    """One shape for keys and values together where they are equally wide, else one each."""
    heads = (*shape, layer.num_kv_heads)
    if layer.k_head_dim == layer.v_head_dim:
        return [(2, *heads, layer.k_head_dim)]
    return [(*heads, layer.k_head_dim), (*heads, layer.v_head_dim)]


def _zeroed(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Not torch.zeros, which is free to ask the system for untouched zero pages: zero_() writes to every one.
    return torch.empty(shape, dtype=dtype, device=device).zero_()
