import random
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvcache.block_pool import PoolIntegrityError
from kvcache.geometry import KVGeometry, LayerGeometry
from kvcache.manager import KVCacheManager, UnknownRequestError

BLOCK_SIZE = 4
GEOMETRY = KVGeometry((LayerGeometry(4, 2, 8, 8),), dtype_bytes=2, block_size=BLOCK_SIZE)


def manager(num_blocks: int = 8, *, enable_prefix_cache: bool = True) -> KVCacheManager:
    return KVCacheManager(GEOMETRY, num_blocks, enable_prefix_cache=enable_prefix_cache)


def compute(kv: KVCacheManager, request_id: str, token_ids: Sequence[int], *, salt: str = "") -> int:
    """One request's whole prompt in one step; the number of cached tokens comes back."""
    num_cached_tokens = kv.find_cached_prefix(request_id, list(token_ids), salt=salt)
    assert kv.allocate_slots(request_id, len(token_ids)) is not None
    kv.commit_tokens(request_id, len(token_ids), lambda start, stop: token_ids[start:stop])
    return num_cached_tokens


def counts(kv: KVCacheManager) -> tuple[int, int, int]:
    return kv.num_free_blocks, kv.num_used_blocks, kv.num_cached_blocks


def test_capacity() -> None:
    kv = manager(8)
    assert (kv.num_blocks, kv.max_tokens) == (8, 32)
    assert kv.can_ever_hold(32)
    assert not kv.can_ever_hold(33)


def test_the_block_table_grows_in_place_and_never_shrinks() -> None:
    kv = manager()
    table = kv.allocate_slots("a", 1)
    assert table is not None
    assert len(table) == 1
    assert kv.allocate_slots("a", 4) is table
    assert len(table) == 1
    assert kv.allocate_slots("a", 5) is table
    assert len(table) == 2
    assert kv.allocate_slots("a", 2) is table
    assert kv.block_table("a") is table
    assert len(table) == 2


def test_no_room_now_changes_nothing() -> None:
    kv = manager(3)
    table = list(kv.allocate_slots("a", 8) or [])
    assert kv.allocate_slots("a", 13) is None
    assert kv.block_table("a") == table
    assert kv.allocate_slots("b", 5) is None
    with pytest.raises(UnknownRequestError):
        kv.block_table("b")
    assert counts(kv) == (1, 2, 0)


def test_unknown_requests_raise() -> None:
    kv = manager()
    compute(kv, "a", [1, 2])
    kv.free("a")
    with pytest.raises(UnknownRequestError, match="'a' holds no blocks"):
        kv.free("a")
    with pytest.raises(KeyError):
        kv.block_table("a")
    with pytest.raises(UnknownRequestError):
        kv.commit_tokens("a", 0, lambda start, stop: [])


def test_a_second_request_shares_the_full_blocks_of_the_first() -> None:
    kv = manager()
    prompt = list(range(10))
    assert compute(kv, "a", prompt) == 0
    assert compute(kv, "b", prompt) == 8
    assert kv.block_table("a")[:2] == kv.block_table("b")[:2]
    assert kv.block_table("a")[2] != kv.block_table("b")[2]
    assert kv.num_used_blocks == 4
    assert kv.num_filled_slots == 8 + 2 + 2
    kv.check_integrity()


def test_a_prefix_is_found_after_its_request_is_gone() -> None:
    kv = manager()
    compute(kv, "a", range(10))
    kv.free("a")
    assert counts(kv) == (6, 0, 2)
    assert kv.num_filled_slots == 0
    assert kv.find_cached_prefix("b", [*range(8), 99]) == 8
    assert counts(kv) == (6, 2, 0)
    assert kv.num_filled_slots == 8


def test_one_token_is_always_left_to_compute() -> None:
    kv = manager()
    compute(kv, "a", range(8))
    assert kv.find_cached_prefix("b", list(range(8))) == 4
    assert kv.find_cached_prefix("c", []) == 0
    assert kv.find_cached_prefix("d", [0]) == 0


def test_generated_tokens_are_found_too() -> None:
    kv = manager()
    tokens = list(range(3))
    compute(kv, "a", tokens)
    for token_id in range(3, 9):
        tokens.append(token_id)
        kv.allocate_slots("a", len(tokens))
        kv.commit_tokens("a", len(tokens), lambda start, stop: tokens[start:stop])
    kv.free("a")
    assert kv.find_cached_prefix("b", [*tokens, 50, 51]) == 8


def test_a_block_is_findable_only_once_its_kv_is_written() -> None:
    kv = manager()
    kv.find_cached_prefix("a", list(range(9)))
    kv.allocate_slots("a", 9)
    assert kv.find_cached_prefix("b", list(range(9))) == 0
    kv.commit_tokens("a", 7, range)
    assert kv.find_cached_prefix("c", list(range(9))) == 4


def test_a_hole_ends_the_prefix() -> None:
    kv = manager()
    compute(kv, "a", range(12))
    assert kv.find_cached_prefix("b", [0, 1, 2, 3, 99, 5, 6, 7, 8, 9, 10, 11, 12]) == 4


def test_salts_share_nothing() -> None:
    kv = manager()
    compute(kv, "a", range(9), salt="mine")
    assert kv.find_cached_prefix("b", list(range(9)), salt="yours") == 0
    assert kv.find_cached_prefix("c", list(range(9))) == 0
    assert kv.find_cached_prefix("d", list(range(9)), salt="mine") == 8


def test_a_request_that_was_never_looked_up_shares_nothing() -> None:
    kv = manager()
    kv.allocate_slots("a", 9)
    kv.commit_tokens("a", 9, range)
    assert kv.find_cached_prefix("b", list(range(9))) == 0
    kv.free("a")
    assert kv.num_cached_blocks == 0


def test_a_request_that_computes_every_token_still_leaves_a_prefix() -> None:
    kv = manager()
    compute(kv, "a", range(9))
    assert kv.find_cached_prefix("b", []) == 0
    kv.allocate_slots("b", 9)
    kv.commit_tokens("b", 9, range)
    kv.free("a")
    kv.free("b")
    assert kv.num_cached_blocks == 2
    assert kv.find_cached_prefix("c", list(range(9))) == 8


def test_off_means_nothing_is_shared_or_kept() -> None:
    kv = manager(enable_prefix_cache=False)
    assert compute(kv, "a", range(9)) == 0
    assert compute(kv, "b", range(9)) == 0
    assert kv.num_filled_slots == 18
    kv.free("a")
    assert counts(kv) == (5, 3, 0)
    kv.free("b")
    assert counts(kv) == (8, 0, 0)


def test_the_end_of_a_chain_goes_first() -> None:
    kv = manager(3)
    compute(kv, "a", range(12))
    kv.free("a")
    kv.allocate_slots("b", 4)
    assert kv.find_cached_prefix("c", list(range(12))) == 8


def test_a_looked_up_prefix_survives_a_full_pool() -> None:
    kv = manager(3)
    compute(kv, "a", range(8))
    kv.free("a")
    assert kv.find_cached_prefix("b", list(range(9))) == 8
    assert kv.allocate_slots("c", 8) is None
    assert kv.allocate_slots("c", 4) is not None
    assert kv.allocate_slots("b", 9) is None
    kv.free("b")
    assert counts(kv) == (0, 1, 2)
    assert kv.find_cached_prefix("b", list(range(9))) == 8


def test_a_preempted_request_finds_its_own_blocks() -> None:
    kv = manager()
    compute(kv, "a", range(11))
    table = list(kv.block_table("a"))
    kv.free("a")
    assert kv.find_cached_prefix("a", list(range(11))) == 8
    assert kv.block_table("a") == table[:2]


def test_a_known_request_is_not_looked_up_again() -> None:
    kv = manager()
    kv.find_cached_prefix("a", [1, 2])
    with pytest.raises(ValueError, match="free it before"):
        kv.find_cached_prefix("a", [1, 2])


def test_token_ids_are_asked_for_only_when_a_block_becomes_full() -> None:
    kv = manager()
    asked: list[tuple[int, int]] = []

    def token_ids(start: int, stop: int) -> list[int]:
        asked.append((start, stop))
        return list(range(start, stop))

    kv.find_cached_prefix("a", list(range(14)))
    kv.allocate_slots("a", 14)
    for num_computed_tokens in (2, 3, 4, 5, 13, 14):
        kv.commit_tokens("a", num_computed_tokens, token_ids)
    assert asked == [(0, 4), (4, 12)]


@pytest.mark.parametrize("num_computed_tokens", [3, 9])
def test_commit_is_bounded_by_the_past_and_the_slots(num_computed_tokens: int) -> None:
    kv = manager()
    compute(kv, "a", range(5))
    with pytest.raises(ValueError, match=f"must be 5 to 8, got {num_computed_tokens}"):
        kv.commit_tokens("a", num_computed_tokens, range)


def test_commit_refuses_a_wrong_number_of_ids() -> None:
    kv = manager()
    kv.find_cached_prefix("a", [1, 2, 3, 4])
    kv.allocate_slots("a", 4)
    with pytest.raises(ValueError, match=r"token_ids\(0, 4\) gave 3 ids, expected 4"):
        kv.commit_tokens("a", 4, lambda start, stop: [1, 2, 3])
    assert kv.num_filled_slots == 0


def corrupt_table(kv: KVCacheManager) -> None:
    kv.block_table("a").append(7)


def corrupt_table_twice(kv: KVCacheManager) -> None:
    kv.block_table("a").append(kv.block_table("a")[0])


def corrupt_missing(kv: KVCacheManager) -> None:
    kv.block_table("b").pop()


def corrupt_tokens(kv: KVCacheManager) -> None:
    kv._holdings["a"].num_computed_tokens = 13


@pytest.mark.parametrize("corrupt", [corrupt_table, corrupt_table_twice, corrupt_missing, corrupt_tokens])
def test_check_integrity_finds(corrupt) -> None:  # type: ignore[no-untyped-def]
    kv = manager()
    compute(kv, "a", range(9))
    kv.allocate_slots("b", 4)
    kv.check_integrity()
    corrupt(kv)
    with pytest.raises(PoolIntegrityError):
        kv.check_integrity()


class ManagerMachine(RuleBasedStateMachine):
    """Random requests against a model that remembers which tokens every block was written with."""

    NUM_BLOCKS = 8

    def __init__(self) -> None:
        super().__init__()
        self.kv = manager(self.NUM_BLOCKS)
        self.tokens: dict[str, list[int]] = {}
        self.salts: dict[str, str] = {}
        self.num_computed: dict[str, int] = {}
        self.written: dict[int, tuple[str, tuple[int, ...]]] = {}
        """Block id -> salt and all tokens up to the end of the block, when it was last written full."""
        self.num_requests = 0

    def _pick(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.tokens)))

    @rule(token_ids=st.lists(st.integers(0, 1), max_size=20), salt=st.sampled_from(["", "s"]))
    def find_cached_prefix(self, token_ids: list[int], salt: str) -> None:
        request_id = f"r{self.num_requests}"
        self.num_requests += 1
        num_cached_tokens = self.kv.find_cached_prefix(request_id, token_ids, salt=salt)
        assert num_cached_tokens % BLOCK_SIZE == 0
        assert num_cached_tokens <= max(0, len(token_ids) - 1)
        table = self.kv.block_table(request_id)
        assert len(table) * BLOCK_SIZE == num_cached_tokens
        for i, block_id in enumerate(table):
            assert self.written[block_id] == (salt, tuple(token_ids[: (i + 1) * BLOCK_SIZE]))
        self.tokens[request_id], self.salts[request_id] = token_ids, salt
        self.num_computed[request_id] = num_cached_tokens

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), num_tokens=st.integers(0, 20))
    def allocate_slots(self, data: st.DataObject, num_tokens: int) -> None:
        request_id = self._pick(data)
        before = list(self.kv.block_table(request_id))
        used = {block_id for other in self.tokens for block_id in self.kv.block_table(other)}
        num_missing = max(0, GEOMETRY.num_blocks(num_tokens) - len(before))
        table = self.kv.allocate_slots(request_id, num_tokens)
        assert (table is None) == (num_missing > self.NUM_BLOCKS - len(used))
        after = self.kv.block_table(request_id)
        assert after[: len(before)] == before
        new = after[len(before) :]
        assert len(new) == (num_missing if table is not None else 0)
        assert not set(new) & used
        for block_id in new:
            self.written.pop(block_id, None)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), new_token_ids=st.lists(st.integers(0, 1), max_size=6))
    def commit_tokens(self, data: st.DataObject, new_token_ids: list[int]) -> None:
        request_id = self._pick(data)
        tokens, table = self.tokens[request_id], self.kv.block_table(request_id)
        tokens.extend(new_token_ids)
        most = min(len(tokens), len(table) * BLOCK_SIZE)
        num_computed = data.draw(st.integers(self.num_computed[request_id], most))
        self.kv.commit_tokens(request_id, num_computed, lambda start, stop: tokens[start:stop])
        for i in range(self.num_computed[request_id] // BLOCK_SIZE, num_computed // BLOCK_SIZE):
            self.written[table[i]] = (self.salts[request_id], tuple(tokens[: (i + 1) * BLOCK_SIZE]))
        self.num_computed[request_id] = num_computed

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self._free(self._pick(data))

    def _free(self, request_id: str) -> None:
        self.kv.free(request_id)
        del self.tokens[request_id], self.salts[request_id], self.num_computed[request_id]

    @invariant()
    def counts_add_up(self) -> None:
        self.kv.check_integrity()
        assert sum(counts(self.kv)) == self.NUM_BLOCKS
        filled = {
            (block_id, offset)
            for request_id, num_computed in self.num_computed.items()
            for i, block_id in enumerate(self.kv.block_table(request_id))
            for offset in range(min(BLOCK_SIZE, num_computed - i * BLOCK_SIZE))
        }
        assert self.kv.num_filled_slots == len(filled)

    def teardown(self) -> None:
        for request_id in list(self.tokens):
            self._free(request_id)
        self.kv.check_integrity()
        assert self.kv.num_used_blocks == 0
        assert self.kv.num_filled_slots == 0
        assert self.kv.num_free_blocks + self.kv.num_cached_blocks == self.NUM_BLOCKS


TestManagerMachine = ManagerMachine.TestCase
TestManagerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_ten_thousand_random_operations_lose_nothing() -> None:
    rng = random.Random(0)
    kv = manager(64)
    running: dict[str, list[int]] = {}
    for i in range(10_000):
        if running and rng.random() < 0.5:
            request_id = rng.choice(list(running))
            del running[request_id]
            kv.free(request_id)
        else:
            token_ids = [rng.randrange(2) for _ in range(rng.randrange(1, 40))]
            kv.find_cached_prefix(f"r{i}", token_ids)
            if kv.allocate_slots(f"r{i}", len(token_ids)) is None:
                kv.free(f"r{i}")
                continue
            kv.commit_tokens(f"r{i}", len(token_ids), lambda start, stop, ids=token_ids: ids[start:stop])
            running[f"r{i}"] = token_ids
        if i % 100 == 0:
            kv.check_integrity()
    for request_id in running:
        kv.free(request_id)
    kv.check_integrity()
    assert kv.num_used_blocks == 0
    assert kv.num_free_blocks + kv.num_cached_blocks == 64
