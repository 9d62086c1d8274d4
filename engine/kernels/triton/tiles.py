"""How large tiles are, and how many warps and stages work on them: one table for all GPUs until measurements say more."""

from typing import NamedTuple

MIN_DOT = 16
"""Smallest side of a matrix product on tensor cores."""

MAX_DECODE_ROWS = 64
"""Query heads of a group in one tile of the decode kernel; larger groups read their keys once a tile."""

MAX_SPLITS = 128
MIN_SPLIT_KEYS = 256
"""A split should be long enough to be worth a program and its share of the last kernel."""

PROGRAMS_PER_PROCESSOR = 8
"""The decode kernel splits keys until there are so many programs: several waves of the two or three that fit at once."""


TILE_NUMBERS = 2048
"""Numbers that a program of an elementwise kernel takes at once: enough for 4 warps to load 16 bytes a thread."""

MAX_WARPS = 16


class Tile(NamedTuple):
    """One choice.

    Attributes:
        block_m: rows (a token and a head of the group each).
        block_n: keys.
        num_warps: of a program.
        num_stages: tiles of keys and values in flight.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


PREFILL_TILES = {
    (64, 2): Tile(128, 64, 8, 3),
    (128, 2): Tile(128, 64, 8, 3),
    (256, 2): Tile(64, 32, 8, 2),
    (64, 4): Tile(64, 32, 4, 2),
    (128, 4): Tile(32, 32, 4, 2),
    (256, 4): Tile(16, 16, 4, 2),
}
DECODE_TILES = {
    (64, 2): Tile(MIN_DOT, 128, 4, 3),
    (128, 2): Tile(MIN_DOT, 64, 4, 3),
    (256, 2): Tile(MIN_DOT, 32, 4, 3),
    (64, 4): Tile(MIN_DOT, 64, 4, 2),
    (128, 4): Tile(MIN_DOT, 32, 4, 2),
    (256, 4): Tile(MIN_DOT, 16, 4, 2),
}
"""By the wider head_dim of keys and values, rounded up to a row of the table, and the bytes of a number. Keys, values and
queries of a choice fit into the 99 KiB of shared memory that the smallest GPU since Ampere gives a program."""


def power_of_two(width: int) -> int:
    """The least one that is not below."""
    return 1 << max(0, width - 1).bit_length()


def num_tiles(length: int, block: int) -> int:
    """Tiles of `block` that cover a length."""
    return -(-length // block)


def num_warps(numbers: int) -> int:
    """Warps for a tile of so many numbers: at most 16 a thread, where there are not too many of them."""
    return max(1, min(MAX_WARPS, numbers // (32 * 16)))


def padded(width: int) -> int:
    """The power of two that a tile's side of this width takes, at least what a product on tensor cores needs."""
    return max(MIN_DOT, power_of_two(width))


def prefill_tile(head_dim: int, itemsize: int, *, is_8_bit: bool = False) -> Tile:
    """For tokens that share their keys: as many rows as registers hold, half as many keys where 8 bits are widened."""
    tile = PREFILL_TILES[max(64, padded(head_dim)), itemsize]
    return tile._replace(block_n=max(MIN_DOT, tile.block_n // 2)) if is_8_bit else tile


def decode_tile(head_dim: int, num_q_per_kv: int, itemsize: int) -> Tile:
    """For single tokens: the rows are the heads of a group, and what counts is that many keys are in flight."""
    tile = DECODE_TILES[max(64, padded(head_dim)), itemsize]
    return tile._replace(block_m=min(padded(num_q_per_kv), MAX_DECODE_ROWS))


def choose_num_splits(num_programs: int, num_keys: int, num_processors: int) -> int:
    """Splits of the keys.

    Worked example: 1 sequence with 8 KV heads and 4,096 keys on 132 processors has 8 programs and would need 132 splits
    for 1,056; with at least 256 keys in each it gets 16.

    Args:
        num_programs: that there are without splits.
        num_keys: of the longest sequence.
        num_processors: of the GPU.
    """
    wanted = -(-num_processors * PROGRAMS_PER_PROCESSOR // num_programs)
    return max(1, min(wanted, num_keys // MIN_SPLIT_KEYS, MAX_SPLITS))
