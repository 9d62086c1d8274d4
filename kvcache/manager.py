"""Which blocks belong to which request: the only thing about the KV cache that the scheduler talks to.

The life of a request here:

    find_cached_prefix -> (allocate_slots -> [the step runs] -> commit_tokens) * steps -> free

It becomes known by find_cached_prefix or by its first successful allocate_slots, and unknown by free. A request that is
preempted is freed too; its full blocks stay cached, so that find_cached_prefix finds them unless they were evicted.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from kvcache.block_pool import BlockPool, PoolIntegrityError
from kvcache.geometry import KVGeometry
from kvcache.prefix import BlockHash, block_hashes, root_hash


class UnknownRequestError(KeyError):
    """No such request holds blocks here: never allocated, or freed already."""


class _Holding(msgspec.Struct):
    """What one request holds. `block_table` is live: the scheduler's batches refer to this very list."""

    block_table: list[int] = []
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
        self._pool = BlockPool(num_blocks)
        self._holdings: dict[str, _Holding] = {}

    @property
    def num_blocks(self) -> int:
        """Blocks in the pool: free + used + cached."""
        return self._pool.num_blocks

    @property
    def max_tokens(self) -> int:
        """Tokens that one request could hold if it had all blocks."""
        return self._pool.num_blocks * self._block_size

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
        num_tokens = sum(holding.num_computed_tokens for holding in self._holdings.values())
        num_refs = sum(len(holding.block_table) for holding in self._holdings.values())
        return num_tokens - (num_refs - self._pool.num_used_blocks) * self._block_size

    def can_ever_hold(self, num_tokens: int) -> bool:
        """Whether one request of `num_tokens` tokens fits in the pool when it has it to itself."""
        return self.geometry.num_blocks(num_tokens) <= self._pool.num_blocks

    def block_table(self, request_id: str) -> list[int]:
        """The blocks of a request in the order of its tokens: the live list, not a copy.

        Raises:
            UnknownRequestError: it holds none.
        """
        return self._holding(request_id).block_table

    def find_cached_prefix(self, request_id: str, token_ids: Sequence[int], *, salt: str = "") -> int:
        """Starts a request's block table with the longest prefix that is cached; O(blocks found).

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
        holding = self._holdings[request_id] = _Holding()
        if not self.enable_prefix_cache:
            return 0
        holding.last_hash = root_hash(salt)
        for block_hash in block_hashes(token_ids[:-1], self._block_size, holding.last_hash):
            block_id = self._pool.lookup(block_hash)
            if block_id is None:
                break
            self._pool.incref(block_id)
            holding.block_table.append(block_id)
            holding.last_hash = block_hash
        holding.num_hashed_blocks = len(holding.block_table)
        holding.num_computed_tokens = holding.num_hashed_blocks * self._block_size
        return holding.num_computed_tokens

    def allocate_slots(self, request_id: str, num_tokens: int) -> list[int] | None:
        """Grows a request's block table until it holds `num_tokens` tokens in all; it never shrinks.

        Returns:
            The block table (always the same live list), or None when there is no room now; then nothing changed.
        """
        holding = self._holdings.get(request_id) or _Holding()
        num_missing = self.geometry.num_blocks(num_tokens) - len(holding.block_table)
        if num_missing > 0:
            block_ids = self._pool.allocate(num_missing)
            if block_ids is None:
                return None
            holding.block_table.extend(block_ids)
        self._holdings[request_id] = holding
        return holding.block_table

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
        num_slots = len(holding.block_table) * self._block_size
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
        self._pool.release(holding.block_table)

    def check_integrity(self) -> None:
        """Compares every block with every table; O(blocks).

        Raises:
            PoolIntegrityError: a reference is missing or left over, or a request has more tokens than slots.
        """
        self._pool.check_integrity()
        for request_id, holding in self._holdings.items():
            if len(set(holding.block_table)) != len(holding.block_table):
                raise PoolIntegrityError(f"a block is in the table of request {request_id!r} twice")
            if holding.num_computed_tokens > len(holding.block_table) * self._block_size:
                raise PoolIntegrityError(f"request {request_id!r} has more tokens than slots")
        holders = Counter(block_id for holding in self._holdings.values() for block_id in holding.block_table)
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
            self._pool.register(holding.block_table[holding.num_hashed_blocks], block_hash)
            holding.num_hashed_blocks += 1
            holding.last_hash = block_hash
