import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from kvcache.prefix import DIGEST_BYTES, block_hashes, root_hash

TOKEN_IDS = st.lists(st.integers(0, 3), max_size=12)


def hashes(token_ids: list[int], block_size: int = 4, salt: str = "") -> list[bytes]:
    return list(block_hashes(token_ids, block_size, root_hash(salt)))


def test_only_full_blocks_have_a_hash() -> None:
    assert [len(hashes(list(range(n)))) for n in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]
    assert len(hashes([1, 2, 3], block_size=1)) == 3


def test_a_hash_is_a_wide_digest() -> None:
    (digest,) = hashes([1, 2, 3, 4])
    assert len(digest) == DIGEST_BYTES == len(root_hash())


def test_the_same_block_after_another_prefix_is_another_block() -> None:
    first, second = hashes([1, 2, 3, 4, 1, 2, 3, 4])
    assert first != second


def test_salts_share_nothing() -> None:
    salts = ["", "a", "b", "\ud800"]
    assert len({hashes([1, 2, 3, 4], salt=salt)[0] for salt in salts}) == len(salts)


def test_neighbouring_ids_do_not_run_together() -> None:
    assert hashes([1, 23], block_size=2) != hashes([12, 3], block_size=2)
    assert hashes([256, 0], block_size=2) != hashes([0, 1], block_size=2)


def test_another_process_computes_the_same_hash() -> None:
    program = "from kvcache.prefix import *; print(next(block_hashes([1, 2, 3, 4], 4, root_hash('s'))).hex())"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == hashes([1, 2, 3, 4], salt="s")[0].hex()


def test_hashes_are_computed_when_asked_for() -> None:
    class Counting(list[int]):
        slices = 0

        def __getitem__(self, key):  # type: ignore[no-untyped-def]
            self.slices += 1
            return super().__getitem__(key)

    token_ids = Counting(range(400))
    next(block_hashes(token_ids, 4, root_hash()))
    assert token_ids.slices == 1


@given(TOKEN_IDS, st.integers(1, 4), st.integers(0, 3))
def test_extending_a_chain_equals_hashing_it_at_once(token_ids: list[int], block_size: int, num_blocks: int) -> None:
    whole = hashes(token_ids, block_size)
    known = whole[:num_blocks]
    parent = known[-1] if known else root_hash()
    rest = block_hashes(token_ids[len(known) * block_size :], block_size, parent)
    assert known + list(rest) == whole


@given(TOKEN_IDS, TOKEN_IDS)
def test_hashes_are_equal_exactly_where_prefixes_are(one: list[int], other: list[int]) -> None:
    for i, (a, b) in enumerate(zip(hashes(one, 2), hashes(other, 2), strict=False)):
        assert (a == b) == (one[: 2 * (i + 1)] == other[: 2 * (i + 1)])
