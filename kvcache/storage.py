"""The tensors behind the blocks. Their measured bytes are geometry's, to the byte."""

import itertools

import torch

from kvcache.geometry import KVGeometry, LayerGeometry


class KVStorage:
    """Keys and values of every block of every layer.

    A layer whose keys and values are equally wide is one tensor [2, num_blocks, block_size, num_kv_heads, head_dim];
    otherwise keys and values are a tensor each. The i-th layers of all groups share a tensor: a block belongs to one group
    at a time (kvcache/layer_groups.py).

    The memory is zeroed, which does two things. Slots that no token was written to are read by kernels that take whole
    blocks and mask afterwards, and 0 * NaN is NaN: whatever lay in that memory could get into an output. And the
    operating system hands out a page when it is written to: a pool that does not fit fails now, not under load.

    Args:
        geometry: heads and block size.
        num_blocks: blocks in every layer.
        dtype: of the numbers kept; as wide as the geometry says.
        device: where they are.

    Raises:
        ValueError: `dtype` is not as wide as the geometry says, or `num_blocks` is less than 1.
    """

    def __init__(self, geometry: KVGeometry, num_blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        if dtype.itemsize != geometry.dtype_bytes:
            raise ValueError(f"dtype must take {geometry.dtype_bytes} bytes, got {dtype} of {dtype.itemsize}")
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
        self.geometry, self.num_blocks = geometry, num_blocks
        shape = (num_blocks, geometry.block_size)
        self._owned: list[torch.Tensor] = []
        # Views are made once: decoding asks for them in every layer of every step.
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}
        for layer_indices in itertools.zip_longest(*(group.layer_indices for group in geometry.groups)):
            sharing = [layer_idx for layer_idx in layer_indices if layer_idx is not None]
            shapes = _layer_shapes(geometry.layers[sharing[0]], shape)
            tensors = [_zeroed(dims, dtype, device) for dims in shapes]
            keys, values = tensors if len(tensors) == 2 else tensors[0].unbind(0)
            self._owned += tensors
            self._keys |= dict.fromkeys(sharing, keys)
            self._values |= dict.fromkeys(sharing, values)

    def k(self, layer_idx: int) -> torch.Tensor:
        """Keys of one layer: a contiguous view [num_blocks, block_size, num_kv_heads, k_head_dim]."""
        return self._keys[layer_idx]

    def v(self, layer_idx: int) -> torch.Tensor:
        """Values of one layer: a contiguous view [num_blocks, block_size, num_kv_heads, v_head_dim]."""
        return self._values[layer_idx]

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


def _zeroed(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    # Not torch.zeros, which is free to ask the system for untouched zero pages: zero_() writes to every one.
    return torch.empty(shape, dtype=dtype, device=device).zero_()
