"""Which blocks belong to which request: the only thing about the KV cache that the scheduler talks to.

The life of a request here:

    find_cached_prefix -> (allocate_slots -> [the step runs] -> commit_tokens) * steps -> free

It becomes known by find_cached_prefix or by its first successful allocate_slots, and unknown by free. A request that is
preempted is freed too; its full blocks stay cached, so that find_cached_prefix finds them unless they were evicted.

Every group of layers (kvcache/layer_groups.py) has a block table of its own. That of a group with a sliding window holds
NO_BLOCK where the window has passed: those blocks are given back, and may still be found by others.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from kvcache.block_map import BlockSnapshot, HeldBlocks
from kvcache.block_pool import BlockPool, PoolIntegrityError
from kvcache.geometry import KVGeometry
from kvcache.prefix import BlockHash, block_hashes, group_hash, root_hash

NO_BLOCK = -1
"""In a block table: the window has passed this place."""


class UnknownRequestError(KeyError):
    """No such request holds blocks here: never allocated, or freed already."""


class _Holding(msgspec.Struct):
    """What one request holds. `block_tables`, one a group, are live: the scheduler's batches refer to these very lists."""

    block_tables: list[list[int]]
    first_blocks: list[int]
    """A group each: places before this one hold NO_BLOCK."""
    num_computed_tokens: int = 0
    num_hashed_blocks: int = 0
    last_hash: BlockHash | None = None
    """Of the last hashed block, or the root; None: this request shares nothing."""


class KVCacheManager:
    """Block tables of all requests, over one pool.

    Args:
        geometry: what a block holds and costs.
        num_blocks: how many there are.
        enable_prefix_cache: share full blocks between requests with equal prefixes and salts, and keep them when their
            last request is freed until their room is needed.

    Raises:
        ValueError: `num_blocks` is less than 1.
    """

    def __init__(self, geometry: KVGeometry, num_blocks: int, *, enable_prefix_cache: bool) -> None:
        self.geometry = geometry
        self.enable_prefix_cache = enable_prefix_cache
        self._block_size = geometry.block_size
        self._groups = geometry.groups
        self._pool = BlockPool(num_blocks)
        self._holdings: dict[str, _Holding] = {}

    @property
    def num_blocks(self) -> int:
        """Blocks in the pool: free + used + cached."""
        return self._pool.num_blocks

    @property
    def num_free_blocks(self) -> int:
        """Blocks that hold nothing."""
        return self._pool.num_free_blocks

    @property
    def num_used_blocks(self) -> int:
        """Blocks that a request refers to; a shared one counts once."""
        return self._pool.num_used_blocks

    @property
    def num_cached_blocks(self) -> int:
        """Blocks that only the prefix cache holds: evictable."""
        return self._pool.num_cached_blocks

    @property
    def num_filled_slots(self) -> int:
        """Slots of used blocks that hold a token; a shared block's count once. O(requests).

        Only full blocks are shared, so every reference beyond a block's first counts block_size tokens too many:
        two requests of 20 tokens that share their first block of 16 fill 40 - 16 = 24 slots.
        """
        num_slots = sum(
            max(0, holding.num_computed_tokens - first * self._block_size)
            for holding in self._holdings.values()
            for first in holding.first_blocks
        )
        num_refs = sum(map(_num_held, self._holdings.values()))
        return num_slots - (num_refs - self._pool.num_used_blocks) * self._block_size

    def block_tables(self, request_id: str) -> list[list[int]]:
        """The blocks of a request in the order of its tokens, a list a group: the live lists, no copies.

        Raises:
            UnknownRequestError: it holds none.
        """
        return self._holding(request_id).block_tables

    def num_held_blocks(self, request_id: str) -> int:
        """Blocks that a request refers to, in all groups; 0 where it is not known. O(groups)."""
        holding = self._holdings.get(request_id)
        return _num_held(holding) if holding else 0

    def num_wasted_slots(self, request_id: str) -> int:
        """Slots of a request's last block, in each group, that hold no token; 0 where it is not known."""
        holding = self._holdings.get(request_id)
        return len(holding.block_tables[0]) * self._block_size - holding.num_computed_tokens if holding else 0

    def snapshot(self) -> BlockSnapshot:
        """Who holds what, now: the live tables themselves, no copies. O(requests + cached blocks)."""
        holdings = [
            HeldBlocks(request_id, holding.block_tables, holding.num_computed_tokens)
            for request_id, holding in self._holdings.items()
        ]
        return BlockSnapshot(self.num_blocks, self._block_size, holdings, self._pool.cached_block_ids())

    def find_cached_prefix(self, request_id: str, token_ids: Sequence[int], *, salt: str = "") -> int:
        """Starts a request's block tables with the longest prefix that is cached; O(blocks found).

        Full layers need every block of the prefix, layers with a window those that the next token sees.

        Side effects: takes a reference to each block found, which `free` gives back, also when there is no room for the
        rest; and remembers the salt. A request that skips this call shares nothing with anybody, since its salt is not
        known. One that must compute every token (for its prompt's logprobs) passes no token ids.

        Args:
            request_id: a request that is not known here yet.
            token_ids: all its tokens so far.
            salt: only requests with the same salt share blocks.

        Returns:
            The number of tokens whose KV is valid: a multiple of block_size, less than len(token_ids), so that the
            step has a token to compute and thus logits to sample from. 0 where the prefix cache is off.

        Raises:
            ValueError: the request is known already.
        """
        if request_id in self._holdings:
            raise ValueError(f"request {request_id!r} holds blocks already: free it before it is looked up again")
        holding = self._holdings[request_id] = self._new_holding()
        if not self.enable_prefix_cache:
            return 0
        holding.last_hash = root_hash(salt)
        hashes = self._cached_chain(block_hashes(token_ids[:-1], self._block_size, holding.last_hash))
        del hashes[self._longest_in_windows(hashes) :]
        if hashes:
            self._take_prefix(holding, hashes)
        return holding.num_computed_tokens

    def allocate_slots(self, request_id: str, num_tokens: int, num_spare_blocks: int = 0) -> list[list[int]] | None:
        """Grows a request's block tables until they hold `num_tokens` tokens in all; they never shrink.

        Args:
            request_id: whose.
            num_tokens: that must have a slot.
            num_spare_blocks: there is room only where so many blocks are left afterwards, free or cached.

        Side effects: blocks that the windows have passed are given back, whether there is room or not.

        Returns:
            The block tables (always the same live lists), or None when there is no room now.
        """
        holding = self._holdings.get(request_id) or self._new_holding()
        self._slide(holding)
        num_places = -(-num_tokens // self._block_size)
        missing = [max(0, num_places - len(table)) for table in holding.block_tables]
        if any(missing):
            if sum(missing) + num_spare_blocks > self._pool.num_free_blocks + self._pool.num_cached_blocks:
                return None
            block_ids = self._pool.allocate(sum(missing))
            if block_ids is None:
                return None
            for table, count in zip(holding.block_tables, missing, strict=True):
                table.extend(block_ids[:count])
                del block_ids[:count]
        self._holdings[request_id] = holding
        return holding.block_tables

    def commit_tokens(
        self, request_id: str, num_computed_tokens: int, token_ids: Callable[[int, int], Sequence[int]]
    ) -> None:
        """Says that a step has written KV; blocks that became full by it can be found from now on. O(new full blocks).

        Args:
            request_id: whose.
            num_computed_tokens: tokens whose KV is valid now, from the first on.
            token_ids: gives the ids at positions [start, stop); called only when a block became full.

        Raises:
            UnknownRequestError: the request holds nothing.
            ValueError: fewer tokens than before, more than there are slots for, or `token_ids` gave another number.
        """
        holding = self._holding(request_id)
        num_slots = len(holding.block_tables[0]) * self._block_size
        if not holding.num_computed_tokens <= num_computed_tokens <= num_slots:
            raise ValueError(
                f"num_computed_tokens of request {request_id!r} must be {holding.num_computed_tokens} "
                f"to {num_slots}, got {num_computed_tokens}"
            )
        self._register_full_blocks(holding, num_computed_tokens // self._block_size, token_ids)
        holding.num_computed_tokens = num_computed_tokens

    def free(self, request_id: str) -> None:
        """Gives back all references of a request; blocks that nobody else holds become cached or free.

        Raises:
            UnknownRequestError: the request is not known, or was freed before.
        """
        holding = self._holding(request_id)
        del self._holdings[request_id]
        for group in self._range:
            self._pool.release(self._held(holding, group))

    def check_integrity(self) -> None:
        """Compares every block with every table; O(blocks).

        Raises:
            PoolIntegrityError: a reference is missing or left over, or a request has more tokens than slots.
        """
        self._pool.check_integrity()
        holders: Counter[int] = Counter()
        for request_id, holding in self._holdings.items():
            held = [block_id for group in self._range for block_id in self._held(holding, group)]
            if len(set(held)) != len(held) or NO_BLOCK in held:
                raise PoolIntegrityError(f"a block is in the tables of request {request_id!r} twice, or missing")
            if len({len(table) for table in holding.block_tables}) > 1:
                raise PoolIntegrityError(f"the block tables of request {request_id!r} differ in length")
            if holding.num_computed_tokens > len(holding.block_tables[0]) * self._block_size:
                raise PoolIntegrityError(f"request {request_id!r} has more tokens than slots")
            holders.update(held)
        for block_id in range(self._pool.num_blocks):
            if holders[block_id] != self._pool.ref_count(block_id):
                raise PoolIntegrityError(
                    f"block {block_id} is in {holders[block_id]} tables, ref_count {self._pool.ref_count(block_id)}"
                )

    def _holding(self, request_id: str) -> _Holding:
        try:
            return self._holdings[request_id]
        except KeyError:
            raise UnknownRequestError(f"request {request_id!r} holds no blocks") from None

    @property
    def _range(self) -> range:
        return range(len(self._groups))

    def _new_holding(self) -> _Holding:
        return _Holding(block_tables=[[] for _ in self._groups], first_blocks=[0] * len(self._groups))

    def _held(self, holding: _Holding, group: int) -> list[int]:
        """The blocks that a request holds for a group."""
        table, first = holding.block_tables[group], holding.first_blocks[group]
        return table[first:] if first else table

    def _slide(self, holding: _Holding) -> None:
        """Give back what the windows have passed."""
        for group, layers in enumerate(self._groups):
            first, table = holding.first_blocks[group], holding.block_tables[group]
            needed = min(layers.first_block(holding.num_computed_tokens, self._block_size), len(table))
            if needed > first:
                self._pool.release(table[first:needed])
                table[first:needed] = [NO_BLOCK] * (needed - first)
                holding.first_blocks[group] = needed

    def _cached_chain(self, hashes: Iterable[BlockHash]) -> list[BlockHash]:
        """The longest beginning of a chain whose blocks are cached in all groups without a window."""
        full = [group for group, layers in enumerate(self._groups) if layers.sliding_window is None]
        chain: list[BlockHash] = []
        for block_hash in hashes:
            if any(self._pool.lookup(group_hash(block_hash, group)) is None for group in full):
                break
            chain.append(block_hash)
        return chain

    def _longest_in_windows(self, chain: list[BlockHash]) -> int:
        """How many blocks of a chain can be taken: the windows of the token after them must be cached too."""
        num_blocks = len(chain)
        while num_blocks and (missing := self._last_missing(chain, num_blocks)) is not None:
            num_blocks = missing
        return num_blocks

    def _last_missing(self, chain: list[BlockHash], num_blocks: int) -> int | None:
        """The last of `num_blocks` blocks that a window needs and that is not cached; None: all are there.

        Whoever comes down to that block has looked at each only once.
        """
        for group, layers in enumerate(self._groups):
            first = layers.first_block(num_blocks * self._block_size, self._block_size)
            if layers.sliding_window is not None:
                for place in range(num_blocks - 1, first - 1, -1):
                    if self._pool.lookup(group_hash(chain[place], group)) is None:
                        return place
        return None

    def _take_prefix(self, holding: _Holding, chain: list[BlockHash]) -> None:
        """Take a reference to the blocks of a chain, those in each group that the next token needs."""
        num_tokens = len(chain) * self._block_size
        for group, layers in enumerate(self._groups):
            first = layers.first_block(num_tokens, self._block_size)
            found = [self._pool.lookup(group_hash(block_hash, group)) for block_hash in chain[first:]]
            block_ids = [block_id for block_id in found if block_id is not None]
            for block_id in block_ids:
                self._pool.incref(block_id)
            holding.first_blocks[group] = first
            holding.block_tables[group] += [NO_BLOCK] * first + block_ids
        holding.last_hash, holding.num_hashed_blocks = chain[-1], len(chain)
        holding.num_computed_tokens = num_tokens

    def _register_full_blocks(
        self, holding: _Holding, num_full_blocks: int, token_ids: Callable[[int, int], Sequence[int]]
    ) -> None:
        if holding.last_hash is None or num_full_blocks == holding.num_hashed_blocks:
            return
        start, stop = holding.num_hashed_blocks * self._block_size, num_full_blocks * self._block_size
        new_ids = token_ids(start, stop)
        if len(new_ids) != stop - start:
            raise ValueError(f"token_ids({start}, {stop}) gave {len(new_ids)} ids, expected {stop - start}")
        for block_hash in block_hashes(new_ids, self._block_size, holding.last_hash):
            for group, table in enumerate(holding.block_tables):
                self._pool.register(table[holding.num_hashed_blocks], group_hash(block_hash, group))
            holding.num_hashed_blocks += 1
            holding.last_hash = block_hash


def _num_held(holding: _Holding) -> int:
    return sum(map(len, holding.block_tables)) - sum(holding.first_blocks)
