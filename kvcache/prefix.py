"""The identity of a block: what it holds and everything before it.

    hash of block i = blake2b(hash of block i - 1, token ids of block i)      hash "before block 0" = blake2b(salt)

KV depends on all earlier tokens, so the hash of a block does too: equal hashes mean equal prefixes. The digest is
cryptographic because clients choose the tokens: whoever could craft a collision would read another client's cache.
It does not depend on the process (unlike Python's `hash`), so engines agree about it.
"""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from typing import NewType

BlockHash = NewType("BlockHash", bytes)
"""Digest of a full block and all blocks before it."""

DIGEST_BYTES = 32


def root_hash(salt: str = "") -> BlockHash:
    """The hash before the first block; requests with different salts share nothing."""
    # A JSON string may hold half a surrogate pair, which plain UTF-8 refuses.
    encoded = salt.encode("utf-8", "surrogatepass")
    return BlockHash(hashlib.blake2b(encoded, digest_size=DIGEST_BYTES, person=b"headcount-salt").digest())


def block_hashes(token_ids: Sequence[int], block_size: int, parent: BlockHash) -> Iterator[BlockHash]:
    """The hashes of the full blocks of `token_ids`, one after the other and computed only when asked for.

    Args:
        token_ids: the tokens after the block whose hash is `parent`; a partial block at the end has no hash.
        block_size: tokens in a block.
        parent: `root_hash(salt)`, or the hash of the block before, to extend a chain.
    """
    for start in range(0, len(token_ids) - block_size + 1, block_size):
        # Parent and ids have fixed widths, so no two different blocks make the same message.
        ids = array("q", token_ids[start : start + block_size]).tobytes()
        parent = BlockHash(hashlib.blake2b(parent + ids, digest_size=DIGEST_BYTES, person=b"headcount-block").digest())
        yield parent


def group_hash(block_hash: BlockHash, group: int) -> BlockHash:
    """The key of a block in a group of layers: the same tokens have a block in each group."""
    return BlockHash(block_hash + group.to_bytes(2)) if group else block_hash
