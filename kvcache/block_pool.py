"""Blocks, their reference counts, and the order in which they are given away.

Every block is in exactly one of three states:

    free     ref_count 0, holds nothing worth keeping
    used     ref_count > 0
    cached   ref_count 0, holds a full block that can be found by its hash until it is evicted

    free --allocate--> used --release--> cached (with a hash) or free (without)
    cached --incref--> used              cached --allocate (evicts)--> used

`allocate` takes free blocks first: as long as there is one, nothing that could be found again is lost.
"""

from collections import OrderedDict
from collections.abc import Sequence

from kvcache.prefix import BlockHash


class PoolIntegrityError(RuntimeError):
    """A block was freed twice, or is in two states at once: a bug in the caller or in the pool, never a user's mistake."""


class BlockPool:
    """`num_blocks` blocks, numbered from 0. Every operation is O(1) for each block it names.

    Args:
        num_blocks: how many there are, at least 1.

    Raises:
        ValueError: `num_blocks` is less than 1.
    """

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
        self.num_blocks = num_blocks
        self._ref_counts = [0] * num_blocks
        self._hashes: list[BlockHash | None] = [None] * num_blocks
        self._block_ids: dict[BlockHash, int] = {}
        # A stack, lowest number on top: a block that was just in use is likely still in the processor's caches.
        self._free = list(range(num_blocks - 1, -1, -1))
        # First in, first evicted. An OrderedDict also removes from its middle (incref) in O(1); a plain dict whose
        # first keys were deleted searches past all of them to find its first entry.
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free_blocks(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    @property
    def num_cached_blocks(self) -> int:
        """Blocks that nobody refers to but that can still be found: evictable."""
        return len(self._cached)

    @property
    def num_used_blocks(self) -> int:
        """Blocks that somebody refers to; a shared block counts once."""
        return self.num_blocks - len(self._free) - len(self._cached)

    def cached_block_ids(self) -> list[int]:
        """Blocks that nobody refers to but that can still be found, the next to be evicted first. O(cached blocks)."""
        return list(self._cached)

    def ref_count(self, block_id: int) -> int:
        """How many refer to this block."""
        return self._ref_counts[block_id]

    def block_hash(self, block_id: int) -> BlockHash | None:
        """The hash under which this block can be found, if any."""
        return self._hashes[block_id]

    def lookup(self, block_hash: BlockHash) -> int | None:
        """The block that holds these contents, used or cached. Takes no reference."""
        return self._block_ids.get(block_hash)

    def allocate(self, num_blocks: int) -> list[int] | None:
        """Takes blocks, each with ref_count 1 and no hash; free ones first, then the least recently released.

        Returns:
            The block ids, or None when there is no room now; then nothing changed.

        Raises:
            ValueError: `num_blocks` is negative.
        """
        if num_blocks < 0:
            raise ValueError(f"num_blocks must be at least 0, got {num_blocks}")
        if num_blocks > len(self._free) + len(self._cached):
            return None
        return [self._take() for _ in range(num_blocks)]

    def incref(self, block_id: int) -> None:
        """Takes a reference to a used or cached block; a cached one comes back to life.

        Raises:
            PoolIntegrityError: the block is free.
        """
        if self._ref_counts[block_id] == 0:
            if block_id not in self._cached:
                raise PoolIntegrityError(f"block {block_id} is free: it has no contents to share")
            del self._cached[block_id]
        self._ref_counts[block_id] += 1

    def release(self, block_ids: Sequence[int]) -> None:
        """Drops one reference to each of these blocks, given in the order of their chain.

        The end of the chain is evicted first, since a block can be found only through all that come before it.

        Raises:
            PoolIntegrityError: a block has no reference left to drop; the ones after it are released already.
        """
        for block_id in reversed(block_ids):
            if self._ref_counts[block_id] == 0:
                raise PoolIntegrityError(f"block {block_id} is released twice")
            self._ref_counts[block_id] -= 1
            if self._ref_counts[block_id] == 0:
                self._retire(block_id)

    def register(self, block_id: int, block_hash: BlockHash) -> bool:
        """Makes a used block findable by the hash of its contents.

        Returns:
            False where another block with the same contents is findable already; this one stays as it was.

        Raises:
            PoolIntegrityError: the block is not in use, or is registered under another hash.
        """
        if self._ref_counts[block_id] == 0:
            raise PoolIntegrityError(f"block {block_id} is not in use: it cannot be registered")
        holder = self._block_ids.setdefault(block_hash, block_id)
        if holder != block_id:
            return False
        if self._hashes[block_id] not in (None, block_hash):
            del self._block_ids[block_hash]
            raise PoolIntegrityError(f"block {block_id} is registered under another hash already")
        self._hashes[block_id] = block_hash
        return True

    def check_integrity(self) -> None:
        """Looks at every block; O(num_blocks).

        Raises:
            PoolIntegrityError: a block is in no state or in two, or a hash does not lead to its block.
        """
        self._check_states()
        self._check_hashes()

    def _take(self) -> int:
        if self._free:
            block_id = self._free.pop()
        else:
            block_id, _ = self._cached.popitem(last=False)
            self._forget(block_id)
        self._ref_counts[block_id] = 1
        return block_id

    def _forget(self, block_id: int) -> None:
        block_hash = self._hashes[block_id]
        if block_hash is None:
            raise PoolIntegrityError(f"block {block_id} is cached without a hash")
        del self._block_ids[block_hash]
        self._hashes[block_id] = None

    def _retire(self, block_id: int) -> None:
        if self._hashes[block_id] is None:
            self._free.append(block_id)
        else:
            self._cached[block_id] = None

    def _check_states(self) -> None:
        free = set(self._free)
        if len(free) != len(self._free):
            raise PoolIntegrityError("a block is on the free list twice")
        for block_id, ref_count in enumerate(self._ref_counts):
            states = (block_id in free) + (block_id in self._cached) + (ref_count > 0)
            if states != 1 or ref_count < 0:
                raise PoolIntegrityError(f"block {block_id} is in {states} states, ref_count {ref_count}")
        # Every block has one state, so what is left over on a list is no block of this pool.
        num_used = sum(ref_count > 0 for ref_count in self._ref_counts)
        if len(free) + len(self._cached) + num_used != self.num_blocks:
            raise PoolIntegrityError("free + cached + used is not the number of blocks")

    def _check_hashes(self) -> None:
        hashes = {block_hash: block_id for block_id, block_hash in enumerate(self._hashes) if block_hash is not None}
        if hashes != self._block_ids:
            raise PoolIntegrityError("hashes and blocks do not lead to each other")
        for block_id in self._cached:
            if self._hashes[block_id] is None:
                raise PoolIntegrityError(f"block {block_id} is cached without a hash")
        for block_id in self._free:
            if self._hashes[block_id] is not None:
                raise PoolIntegrityError(f"block {block_id} is free with a hash")
