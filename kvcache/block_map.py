"""The block map: what every block of a pool holds, as arrays with an entry per block.

The engine only says who holds what (BlockSnapshot, whose lists are its live ones: nothing is copied, encoding them is all
that a step waits for). Whoever wants the map makes it of that, somewhere else.
"""

from collections.abc import Iterable
from itertools import chain

import msgspec
import numpy as np
from numpy.typing import NDArray

FREE, OWNED, SHARED, CACHED = (ord(letter) for letter in "fosc")

Ints = NDArray[np.int64]


class HeldBlocks(msgspec.Struct, frozen=True):
    """The block tables of one request, a group of layers each; see kvcache/manager.py."""

    request_id: str
    block_tables: list[list[int]]
    num_computed_tokens: int


class BlockSnapshot(msgspec.Struct, frozen=True):
    """Who holds what, between two steps. Its lists change with the next step: encode or read them before."""

    num_blocks: int
    block_size: int
    holdings: list[HeldBlocks]
    cached_block_ids: list[int]
    """Blocks that nobody holds and that can still be found."""


class BlockMap(msgspec.Struct, frozen=True):
    """Every block of a pool, from 0 on.

    Attributes:
        states: [num_blocks] uint8, letters: f(ree), o(wned) by one request, s(hared) by several, c(ached) for later.
        filled_slots: [num_blocks] slots that hold a token.
        ref_counts: [num_blocks] how many requests hold it.
        owners: [sum of ref_counts] indices into `request_ids`: those of block 0, then those of block 1, ...
        request_ids: the requests that hold blocks.
    """

    states: NDArray[np.uint8]
    filled_slots: Ints
    ref_counts: Ints
    owners: Ints
    request_ids: list[str]


def build_block_map(snapshot: BlockSnapshot) -> BlockMap:
    """The arrays of a snapshot; O(blocks)."""
    tables = [table for holding in snapshot.holdings for table in holding.block_tables]
    lengths = _ints(len(table) for table in tables)
    owners = np.repeat(_ints(i for i, holding in enumerate(snapshot.holdings) for _ in holding.block_tables), lengths)
    num_computed = _ints(holding.num_computed_tokens for holding in snapshot.holdings)[owners]
    block_ids = _ints(chain.from_iterable(tables))
    places = np.arange(len(block_ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    slots = np.clip(num_computed - places * snapshot.block_size, 0, snapshot.block_size)
    is_held = block_ids >= 0  # NO_BLOCK, where a window has passed, is negative
    return _by_block(snapshot, block_ids[is_held], slots[is_held], owners[is_held])


def _by_block(snapshot: BlockSnapshot, block_ids: Ints, slots: Ints, owners: Ints) -> BlockMap:
    """From an entry per place in a block table to an entry per block."""
    ref_counts = np.bincount(block_ids, minlength=snapshot.num_blocks)
    cached = _ints(snapshot.cached_block_ids)
    filled_slots = np.zeros(snapshot.num_blocks, dtype=np.int64)
    filled_slots[block_ids] = slots  # only full blocks are shared, so holders of one block agree
    filled_slots[cached] = snapshot.block_size
    states = np.array([FREE, OWNED, SHARED], dtype=np.uint8)[np.minimum(ref_counts, 2)]
    states[cached] = CACHED
    # Sorted as one number each, which takes a sixth of the time of an indirect, stable sort.
    num_requests = max(1, len(snapshot.holdings))
    owners = np.sort(block_ids * num_requests + owners) % num_requests
    return BlockMap(
        states=states,
        filled_slots=filled_slots,
        ref_counts=ref_counts,
        owners=owners,
        request_ids=[holding.request_id for holding in snapshot.holdings],
    )


def _ints(numbers: Iterable[int]) -> Ints:
    return np.fromiter(numbers, dtype=np.int64)
