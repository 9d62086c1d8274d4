"""The block map agrees with the tables, one block after the other."""

import random

import msgspec
import pytest

from kvcache.block_map import BlockSnapshot, HeldBlocks, build_block_map
from kvcache.geometry import KVGeometry, LayerGeometry
from kvcache.manager import NO_BLOCK, KVCacheManager

FULL, WINDOW = LayerGeometry(4, 2, 8, 8), LayerGeometry(4, 2, 8, 8, sliding_window=6)
GEOMETRIES = {
    "full": KVGeometry((FULL,), dtype_bytes=2, block_size=4),
    "hybrid": KVGeometry((FULL, WINDOW, WINDOW), dtype_bytes=2, block_size=4),
}


def test_an_empty_pool() -> None:
    found = build_block_map(BlockSnapshot(3, 4, [], []))
    assert found.states.tobytes() == b"fff"
    assert found.filled_slots.tolist() == found.ref_counts.tolist() == [0, 0, 0]
    assert found.owners.tolist() == found.request_ids == []


def test_a_request_without_a_block_yet() -> None:
    found = build_block_map(BlockSnapshot(2, 4, [HeldBlocks("a", [[]], 0), HeldBlocks("b", [[1]], 3)], []))
    assert found.states.tobytes() == b"fo"
    assert (found.owners.tolist(), found.request_ids) == ([1], ["a", "b"])


def test_what_the_window_has_passed_is_nobodys() -> None:
    found = build_block_map(BlockSnapshot(4, 4, [HeldBlocks("a", [[0, 1, 2], [NO_BLOCK, NO_BLOCK, 3]], 10)], []))
    assert found.states.tobytes() == b"oooo"
    assert found.filled_slots.tolist() == [4, 4, 2, 2]


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_block_of_a_busy_pool(name: str) -> None:
    rng = random.Random(1)
    manager = KVCacheManager(GEOMETRIES[name], 60, enable_prefix_cache=True)
    num_shared = 0
    for step in range(300):
        request_id = f"r{rng.randrange(8)}"
        if manager.num_held_blocks(request_id):
            manager.free(request_id)
        else:
            # From two prompts and their beginnings, so that blocks are shared and found again.
            tokens = [rng.randrange(2)] * rng.randrange(1, 40)
            manager.find_cached_prefix(request_id, tokens)
            if manager.allocate_slots(request_id, len(tokens)) is None:
                manager.free(request_id)
                continue
            manager.commit_tokens(request_id, len(tokens), lambda start, stop, ids=tokens: ids[start:stop])
        wire = msgspec.msgpack.encode(manager.snapshot())
        found = build_block_map(msgspec.msgpack.decode(wire, type=BlockSnapshot))
        check(manager, found, step)
        num_shared += found.states.tobytes().count(b"s")
    assert num_shared > 100


def check(manager, found, step) -> None:  # type: ignore[no-untyped-def]
    """Compare a map with the manager's own tables, the slow way."""
    owners: list[list[int]] = [[] for _ in range(manager.num_blocks)]
    filled = [0] * manager.num_blocks
    for index, held in enumerate(manager.snapshot().holdings):
        for table in held.block_tables:
            for place, block_id in enumerate(table):
                if block_id != NO_BLOCK:
                    owners[block_id].append(index)
                    filled[block_id] = max(0, min(4, held.num_computed_tokens - 4 * place))
    cached = set(manager.snapshot().cached_block_ids)
    states = "".join("c" if i in cached else "fos"[min(2, len(owners[i]))] for i in range(manager.num_blocks))
    assert found.states.tobytes().decode() == states, step
    assert found.filled_slots.tolist() == [4 if i in cached else filled[i] for i in range(manager.num_blocks)]
    assert found.ref_counts.tolist() == [len(one) for one in owners]
    assert found.owners.tolist() == [index for one in owners for index in sorted(one)]
    assert states.count("f") == manager.num_free_blocks
    assert states.count("c") == manager.num_cached_blocks
    assert sum(found.filled_slots.tolist()) == manager.num_filled_slots + 4 * len(cached)
