import random
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvcache.block_pool import PoolIntegrityError
from kvcache.geometry import KVGeometry, LayerGeometry
from kvcache.manager import NO_BLOCK, KVCacheManager, UnknownRequestError
from kvcache.prefix import block_hashes, group_hash, root_hash

BLOCK_SIZE = 4
GEOMETRY = KVGeometry((LayerGeometry(4, 2, 8, 8),), dtype_bytes=2, block_size=BLOCK_SIZE)


WINDOW = LayerGeometry(4, 2, 8, 8, sliding_window=6)
HYBRID = KVGeometry((WINDOW, LayerGeometry(4, 2, 8, 8), WINDOW), dtype_bytes=2, block_size=BLOCK_SIZE)
WINDOWED = KVGeometry((WINDOW, WINDOW), dtype_bytes=2, block_size=BLOCK_SIZE)


def manager(num_blocks: int = 8, *, enable_prefix_cache: bool = True) -> KVCacheManager:
    return KVCacheManager(GEOMETRY, num_blocks, enable_prefix_cache=enable_prefix_cache)


def compute(kv: KVCacheManager, request_id: str, token_ids: Sequence[int], *, salt: str = "") -> int:
    """One request's whole prompt in one step; the number of cached tokens comes back."""
    num_cached_tokens = kv.find_cached_prefix(request_id, list(token_ids), salt=salt)
    assert kv.allocate_slots(request_id, len(token_ids)) is not None
    kv.commit_tokens(request_id, len(token_ids), lambda start, stop: token_ids[start:stop])
    return num_cached_tokens


def block_table(kv: KVCacheManager, request_id: str) -> list[int]:
    [table] = kv.block_tables(request_id)
    return table


def counts(kv: KVCacheManager) -> tuple[int, int, int]:
    return kv.num_free_blocks, kv.num_used_blocks, kv.num_cached_blocks


def test_the_block_table_grows_in_place_and_never_shrinks() -> None:
    kv = manager()
    tables = kv.allocate_slots("a", 1)
    assert tables is not None
    [table] = tables
    assert len(table) == 1
    for num_tokens, num_blocks in ((4, 1), (5, 2), (2, 2)):
        assert kv.allocate_slots("a", num_tokens) is tables
        assert kv.block_tables("a")[0] is table
        assert len(table) == num_blocks


def test_no_room_now_changes_nothing() -> None:
    kv = manager(3)
    table = list((kv.allocate_slots("a", 8) or [[]])[0])
    assert kv.allocate_slots("a", 13) is None
    assert block_table(kv, "a") == table
    assert kv.allocate_slots("b", 5) is None
    with pytest.raises(UnknownRequestError):
        block_table(kv, "b")
    assert counts(kv) == (1, 2, 0)


def test_unknown_requests_raise() -> None:
    kv = manager()
    compute(kv, "a", [1, 2])
    kv.free("a")
    with pytest.raises(UnknownRequestError, match="'a' holds no blocks"):
        kv.free("a")
    with pytest.raises(KeyError):
        block_table(kv, "a")
    with pytest.raises(UnknownRequestError):
        kv.commit_tokens("a", 0, lambda start, stop: [])


def test_a_second_request_shares_the_full_blocks_of_the_first() -> None:
    kv = manager()
    prompt = list(range(10))
    assert compute(kv, "a", prompt) == 0
    assert compute(kv, "b", prompt) == 8
    assert block_table(kv, "a")[:2] == block_table(kv, "b")[:2]
    assert block_table(kv, "a")[2] != block_table(kv, "b")[2]
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
    table = list(block_table(kv, "a"))
    kv.free("a")
    assert kv.find_cached_prefix("a", list(range(11))) == 8
    assert block_table(kv, "a") == table[:2]


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
    block_table(kv, "a").append(7)


def corrupt_table_twice(kv: KVCacheManager) -> None:
    block_table(kv, "a").append(block_table(kv, "a")[0])


def corrupt_missing(kv: KVCacheManager) -> None:
    block_table(kv, "b").pop()


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

    GEOMETRY = GEOMETRY
    NUM_BLOCKS = 8

    def __init__(self) -> None:
        super().__init__()
        self.kv = KVCacheManager(self.GEOMETRY, self.NUM_BLOCKS, enable_prefix_cache=True)
        self.tokens: dict[str, list[int]] = {}
        self.salts: dict[str, str] = {}
        self.num_computed: dict[str, int] = {}
        self.written: dict[int, tuple[int, str, tuple[int, ...]]] = {}
        """Block id -> group, salt and all tokens up to the end of the block, when it was last written full."""
        self.num_requests = 0

    def _pick(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.tokens)))

    def _held(self, request_id: str) -> list[tuple[int, int, int]]:
        """(group, place, block) of every block that a request holds."""
        tables = self.kv.block_tables(request_id)
        assert len({len(table) for table in tables}) == 1
        return [(g, i, b) for g, table in enumerate(tables) for i, b in enumerate(table) if b != NO_BLOCK]

    def _used(self) -> set[int]:
        return {block_id for request_id in self.tokens for _, _, block_id in self._held(request_id)}

    def _assert_windows_are_there(self, request_id: str) -> None:
        """Of each group: what the next token sees, and whatever comes after it."""
        for group, layers in enumerate(self.GEOMETRY.groups):
            first = layers.first_block(self.num_computed[request_id], BLOCK_SIZE)
            assert NO_BLOCK not in self.kv.block_tables(request_id)[group][first:]

    @rule(token_ids=st.lists(st.integers(0, 1), max_size=20), salt=st.sampled_from(["", "s"]))
    def find_cached_prefix(self, token_ids: list[int], salt: str) -> None:
        request_id = f"r{self.num_requests}"
        self.num_requests += 1
        expected = longest_prefix(self.kv, token_ids, salt)
        num_cached_tokens = self.kv.find_cached_prefix(request_id, token_ids, salt=salt)
        assert num_cached_tokens == expected
        assert num_cached_tokens <= max(0, len(token_ids) - 1)
        assert all(len(table) * BLOCK_SIZE == num_cached_tokens for table in self.kv.block_tables(request_id))
        for group, place, block_id in self._held(request_id):
            assert self.written[block_id] == (group, salt, tuple(token_ids[: (place + 1) * BLOCK_SIZE]))
        self.tokens[request_id], self.salts[request_id] = token_ids, salt
        self.num_computed[request_id] = num_cached_tokens
        self._assert_windows_are_there(request_id)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), num_tokens=st.integers(0, 20))
    def allocate_slots(self, data: st.DataObject, num_tokens: int) -> None:
        request_id = self._pick(data)
        before = [list(table) for table in self.kv.block_tables(request_id)]
        used_by_others = self._used() - {block_id for _, _, block_id in self._held(request_id)}
        tables = self.kv.allocate_slots(request_id, num_tokens)
        self._assert_windows_are_there(request_id)
        places = max(len(before[0]), -(-num_tokens // BLOCK_SIZE) if tables is not None else 0)
        kept = 0
        for group, table in enumerate(self.kv.block_tables(request_id)):
            first = min(self.GEOMETRY.groups[group].first_block(self.num_computed[request_id], BLOCK_SIZE), len(table))
            assert len(table) == places
            assert table[:first] == [NO_BLOCK] * first
            assert table[first : len(before[group])] == before[group][first:]
            kept += len(before[group][first:])
            for block_id in table[len(before[group]) :]:
                assert block_id not in used_by_others
                self.written.pop(block_id, None)
        num_missing = max(0, -(-num_tokens // BLOCK_SIZE) - len(before[0])) * len(before)
        free_for_it = self.NUM_BLOCKS - len(
            used_by_others | {b for _, i, b in self._held(request_id) if i < len(before[0])}
        )
        assert (tables is None) == (num_missing > free_for_it)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), new_token_ids=st.lists(st.integers(0, 1), max_size=6))
    def commit_tokens(self, data: st.DataObject, new_token_ids: list[int]) -> None:
        request_id = self._pick(data)
        tokens, tables = self.tokens[request_id], self.kv.block_tables(request_id)
        tokens.extend(new_token_ids)
        before, most = self.num_computed[request_id], min(len(tokens), len(tables[0]) * BLOCK_SIZE)
        num_computed = data.draw(st.integers(before, most))
        self.kv.commit_tokens(request_id, num_computed, lambda start, stop: tokens[start:stop])
        for group, table in enumerate(tables):
            for place in range(before // BLOCK_SIZE, num_computed // BLOCK_SIZE):
                content = tuple(tokens[: (place + 1) * BLOCK_SIZE])
                self.written[table[place]] = (group, self.salts[request_id], content)
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
            for _, place, block_id in self._held(request_id)
            for offset in range(min(BLOCK_SIZE, num_computed - place * BLOCK_SIZE))
        }
        assert self.kv.num_filled_slots == len(filled)

    def teardown(self) -> None:
        for request_id in list(self.tokens):
            self._free(request_id)
        self.kv.check_integrity()
        assert self.kv.num_used_blocks == 0
        assert self.kv.num_filled_slots == 0
        assert self.kv.num_free_blocks + self.kv.num_cached_blocks == self.NUM_BLOCKS


class HybridMachine(ManagerMachine):
    """A full layer and two with a window of 6 tokens: three groups, three tables."""

    GEOMETRY = HYBRID
    NUM_BLOCKS = 24


class WindowedMachine(ManagerMachine):
    """Every layer has a window."""

    GEOMETRY = WINDOWED


TestManagerMachine = ManagerMachine.TestCase
TestHybridMachine = HybridMachine.TestCase
TestWindowedMachine = WindowedMachine.TestCase
for case in (TestManagerMachine, TestHybridMachine, TestWindowedMachine):
    case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
del case  # or pytest would find the last one twice


def longest_prefix(kv: KVCacheManager, token_ids: list[int], salt: str) -> int:
    """The longest cached prefix, by trying all."""
    hashes = list(block_hashes(token_ids[:-1], BLOCK_SIZE, root_hash(salt)))
    for num_blocks in range(len(hashes), 0, -1):
        needed = [
            group_hash(hashes[place], group)
            for group, layers in enumerate(kv.geometry.groups)
            for place in range(layers.first_block(num_blocks * BLOCK_SIZE, BLOCK_SIZE), num_blocks)
        ]
        if all(kv._pool.lookup(block_hash) is not None for block_hash in needed):
            return num_blocks * BLOCK_SIZE
    return 0


def test_a_window_holds_only_what_it_still_needs() -> None:
    kv = KVCacheManager(HYBRID, 24, enable_prefix_cache=False)
    kv.find_cached_prefix("a", [])
    for num_tokens in range(1, 41):
        assert kv.allocate_slots("a", num_tokens) is not None
        kv.commit_tokens("a", num_tokens, range)
        assert kv.num_used_blocks <= HYBRID.num_blocks(num_tokens)
    full, *windows = kv.block_tables("a")
    assert NO_BLOCK not in full
    # Token 39 sees tokens 34 to 39, in the blocks 8 and 9.
    assert [[place for place, block in enumerate(table) if block != NO_BLOCK] for table in windows] == [[8, 9]] * 2


def test_a_block_that_the_window_passed_can_be_found_until_it_is_evicted() -> None:
    kv = KVCacheManager(HYBRID, 24, enable_prefix_cache=True)
    compute(kv, "a", range(20))
    kv.allocate_slots("a", 21)
    assert kv.num_cached_blocks == 2 * 3  # places 0, 1 and 2 of both windows
    assert kv.find_cached_prefix("b", list(range(9))) == 8
    assert kv.find_cached_prefix("c", list(range(30))) == 20
    kv.check_integrity()


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


@pytest.mark.parametrize("enable_prefix_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("geometry", [GEOMETRY, HYBRID, WINDOWED], ids=["full", "hybrid", "windowed"])
def test_ten_thousand_random_starts_steps_and_ends(geometry: KVGeometry, enable_prefix_cache: bool) -> None:
    """Requests that also grow, so that windows pass blocks that others share; the books are checked after each operation."""
    rng, num_blocks = random.Random(1), 64
    kv = KVCacheManager(geometry, num_blocks, enable_prefix_cache=enable_prefix_cache)
    running: dict[str, list[int]] = {}
    ended = refused = found = 0
    for i in range(10_000):
        choice = rng.random()
        if not running or choice < 0.2:
            token_ids = [rng.randrange(2) for _ in range(rng.randrange(1, 40))]
            found += kv.find_cached_prefix(f"r{i}", token_ids)
            running[f"r{i}"] = token_ids
        elif choice < 0.85:
            request_id, token_ids = rng.choice(list(running.items()))
            token_ids += [rng.randrange(2) for _ in range(rng.randrange(3))]
            if kv.allocate_slots(request_id, len(token_ids), num_spare_blocks=rng.randrange(3)) is None:
                refused += 1
                kv.free(request_id)
                del running[request_id]
            else:
                kv.commit_tokens(request_id, len(token_ids), lambda start, stop, ids=token_ids: ids[start:stop])
        else:
            ended += 1
            request_id = rng.choice(list(running))
            del running[request_id]
            kv.free(request_id)
        kv.check_integrity()
        assert sum(counts(kv)) == num_blocks
    assert min(ended, refused) > 100
    assert (found > 0) == enable_prefix_cache
    for request_id in running:
        kv.free(request_id)
    kv.check_integrity()
    assert kv.num_used_blocks == 0


def test_spare_blocks_stay_free_or_cached() -> None:
    kv = manager(8)
    compute(kv, "a", range(8))
    kv.free("a")
    assert counts(kv) == (6, 0, 2)
    assert kv.allocate_slots("b", 24, num_spare_blocks=3) is None
    assert counts(kv) == (6, 0, 2)
    assert kv.allocate_slots("b", 24, num_spare_blocks=2) is not None
    assert counts(kv) == (0, 6, 2)
    assert kv.allocate_slots("b", 24, num_spare_blocks=9) is not None, "nothing is missing"
