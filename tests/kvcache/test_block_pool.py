import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvcache.block_pool import BlockPool, PoolIntegrityError
from kvcache.prefix import BlockHash


def name(text: str) -> BlockHash:
    return BlockHash(text.encode())


def counts(pool: BlockPool) -> tuple[int, int, int]:
    return pool.num_free_blocks, pool.num_used_blocks, pool.num_cached_blocks


def pool_with_chain(num_blocks: int = 3) -> tuple[BlockPool, list[int]]:
    """A pool of which every block is registered, as "0", "1", …, and referred to once."""
    pool = BlockPool(num_blocks)
    chain = pool.allocate(num_blocks)
    assert chain is not None
    for i, block_id in enumerate(chain):
        assert pool.register(block_id, name(str(i)))
    return pool, chain


@pytest.mark.parametrize("num_blocks", [0, -1])
def test_a_pool_has_blocks(num_blocks: int) -> None:
    with pytest.raises(ValueError, match="num_blocks must be at least 1"):
        BlockPool(num_blocks)


def test_allocate_gives_distinct_blocks_with_one_reference() -> None:
    pool = BlockPool(4)
    assert sorted(pool.allocate(4) or []) == [0, 1, 2, 3]
    assert [pool.ref_count(i) for i in range(4)] == [1, 1, 1, 1]
    assert counts(pool) == (0, 4, 0)


def test_no_room_now_is_none_and_changes_nothing() -> None:
    pool = BlockPool(4)
    pool.allocate(3)
    assert pool.allocate(2) is None
    assert counts(pool) == (1, 3, 0)
    assert pool.allocate(0) == []


def test_a_negative_number_of_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0, got -1"):
        BlockPool(4).allocate(-1)


def test_a_block_without_a_hash_becomes_free() -> None:
    pool = BlockPool(2)
    pool.release(pool.allocate(2) or [])
    assert counts(pool) == (2, 0, 0)


def test_a_block_with_a_hash_stays_findable() -> None:
    pool, chain = pool_with_chain()
    pool.release(chain)
    assert counts(pool) == (0, 0, 3)
    assert [pool.lookup(name(str(i))) for i in range(3)] == chain
    pool.incref(chain[1])
    assert counts(pool) == (0, 1, 2)
    assert pool.block_hash(chain[1]) == name("1")


def test_the_end_of_a_chain_is_evicted_first() -> None:
    pool, chain = pool_with_chain()
    pool.release(chain)
    assert pool.allocate(1) == [chain[2]]
    assert pool.lookup(name("2")) is None
    assert pool.allocate(2) == [chain[1], chain[0]]


def test_the_least_recently_released_is_evicted_first() -> None:
    pool, (first, second, third) = pool_with_chain()
    for block_id in (second, third, first):
        pool.release([block_id])
    pool.incref(second)
    pool.release([second])
    assert pool.allocate(3) == [third, first, second]


def test_free_blocks_are_taken_before_cached_ones() -> None:
    pool = BlockPool(3)
    kept, *others = pool.allocate(3) or []
    pool.register(kept, name("kept"))
    pool.release([kept])
    pool.release(others)
    assert sorted(pool.allocate(2) or []) == sorted(others)
    assert pool.lookup(name("kept")) == kept


def test_forgotten_blocks_are_free_and_those_in_use_stay() -> None:
    pool, chain = pool_with_chain(3)
    pool.release(chain[1:])
    pool.forget_cached()
    assert counts(pool) == (2, 1, 0)
    assert [pool.lookup(name(str(i))) for i in range(3)] == [chain[0], None, None]
    pool.check_integrity()
    assert pool.allocate(2) is not None


def test_a_shared_block_is_used_until_its_last_release() -> None:
    pool, chain = pool_with_chain()
    pool.incref(chain[0])
    pool.release([chain[0]])
    assert counts(pool) == (0, 3, 0)
    pool.release([chain[0]])
    assert counts(pool) == (0, 2, 1)


def test_equal_contents_are_registered_once() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2) or []
    assert pool.register(first, name("same"))
    assert pool.register(first, name("same"))
    assert not pool.register(second, name("same"))
    pool.release([first, second])
    assert counts(pool) == (1, 0, 1)
    assert pool.lookup(name("same")) == first


def test_double_free_raises() -> None:
    pool = BlockPool(2)
    block_ids = pool.allocate(1) or []
    pool.release(block_ids)
    with pytest.raises(PoolIntegrityError, match="released twice"):
        pool.release(block_ids)
    pool, chain = pool_with_chain()
    with pytest.raises(PoolIntegrityError, match="released twice"):
        pool.release([chain[0], chain[0]])


def test_a_free_block_cannot_be_referred_to_or_registered() -> None:
    pool = BlockPool(2)
    with pytest.raises(PoolIntegrityError, match="is free"):
        pool.incref(0)
    with pytest.raises(PoolIntegrityError, match="not in use"):
        pool.register(0, name("a"))


def test_a_block_has_one_hash() -> None:
    pool, chain = pool_with_chain()
    with pytest.raises(PoolIntegrityError, match="another hash"):
        pool.register(chain[0], name("new"))
    assert pool.lookup(name("new")) is None
    pool.check_integrity()


def corrupt_ref_count(pool: BlockPool) -> None:
    pool._ref_counts[0] = 0


def corrupt_negative_ref_count(pool: BlockPool) -> None:
    pool.release([0])
    pool._ref_counts[0] = -1


def corrupt_free_list_with_used(pool: BlockPool) -> None:
    pool._free.append(0)


def corrupt_free_list_twice(pool: BlockPool) -> None:
    pool._free += [1, 1]


def corrupt_hash_index(pool: BlockPool) -> None:
    pool._block_ids[name("ghost")] = 1


def corrupt_cached_without_hash(pool: BlockPool) -> None:
    pool.release([0])
    pool._block_ids.clear()
    pool._hashes = [None] * pool.num_blocks


def corrupt_free_with_hash(pool: BlockPool) -> None:
    pool.release([0])
    del pool._cached[0]
    pool._free.append(0)


def corrupt_unknown_block_id(pool: BlockPool) -> None:
    pool._free.append(pool.num_blocks)


@pytest.mark.parametrize(
    "corrupt",
    [
        corrupt_ref_count,
        corrupt_negative_ref_count,
        corrupt_free_list_with_used,
        corrupt_free_list_twice,
        corrupt_hash_index,
        corrupt_cached_without_hash,
        corrupt_free_with_hash,
        corrupt_unknown_block_id,
    ],
)
def test_check_integrity_finds(corrupt) -> None:  # type: ignore[no-untyped-def]
    pool = BlockPool(4)
    block_ids = pool.allocate(1)
    assert block_ids == [0]
    pool.register(0, name("0"))
    pool.check_integrity()
    corrupt(pool)
    with pytest.raises(PoolIntegrityError):
        pool.check_integrity()


def test_evicting_a_cached_block_without_a_hash_raises() -> None:
    pool, chain = pool_with_chain()
    pool.release(chain)
    pool._hashes[chain[2]] = None
    with pytest.raises(PoolIntegrityError, match="cached without a hash"):
        pool.allocate(1)


class PoolMachine(RuleBasedStateMachine):
    """The pool against a model of three plain collections, with eviction order."""

    NUM_BLOCKS = 6

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(self.NUM_BLOCKS)
        self.refs: list[int] = []
        """One entry a reference."""
        self.findable: dict[BlockHash, int] = {}
        self.cached: list[int] = []
        """In the order of eviction."""

    def _num_free(self) -> int:
        return self.NUM_BLOCKS - len(set(self.refs)) - len(self.cached)

    @rule(num_blocks=st.integers(0, NUM_BLOCKS + 1))
    def allocate(self, num_blocks: int) -> None:
        num_free = self._num_free()
        got = self.pool.allocate(num_blocks)
        if num_blocks > num_free + len(self.cached):
            assert got is None
            return
        assert got is not None
        num_evicted = max(0, num_blocks - num_free)
        assert got[num_blocks - num_evicted :] == self.cached[:num_evicted]
        assert len(set(got)) == num_blocks
        assert not set(got) & set(self.refs)
        evicted, self.cached = self.cached[:num_evicted], self.cached[num_evicted:]
        self.findable = {h: block_id for h, block_id in self.findable.items() if block_id not in evicted}
        self.refs += got

    @precondition(lambda self: self.refs)
    @rule(data=st.data(), text=st.sampled_from("abcdefgh"))
    def register(self, data: st.DataObject, text: str) -> None:
        block_id = data.draw(st.sampled_from(sorted(set(self.refs))))
        if block_id in self.findable.values():
            return
        assert self.pool.register(block_id, name(text)) == (name(text) not in self.findable)
        self.findable.setdefault(name(text), block_id)

    @precondition(lambda self: self.findable)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        block_id = self.pool.lookup(data.draw(st.sampled_from(sorted(self.findable))))
        assert block_id is not None
        self.pool.incref(block_id)
        self.refs.append(block_id)
        if block_id in self.cached:
            self.cached.remove(block_id)

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        block_ids = data.draw(st.lists(st.sampled_from(sorted(set(self.refs))), unique=True))
        self.pool.release(block_ids)
        for block_id in reversed(block_ids):
            self.refs.remove(block_id)
            if block_id not in self.refs and block_id in self.findable.values():
                self.cached.append(block_id)

    @invariant()
    def pool_equals_model(self) -> None:
        self.pool.check_integrity()
        assert counts(self.pool) == (self._num_free(), len(set(self.refs)), len(self.cached))
        assert [self.pool.ref_count(i) for i in range(self.NUM_BLOCKS)] == [
            self.refs.count(i) for i in range(self.NUM_BLOCKS)
        ]
        for text in "abcdefgh":
            assert self.pool.lookup(name(text)) == self.findable.get(name(text))


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
