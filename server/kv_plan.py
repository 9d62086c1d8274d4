"""What fits in a piece of memory: the arithmetic that `headcount plan` and POST /v1/kv/plan share."""

from typing import Literal

import msgspec

from kvcache.geometry import KVGeometry


class Fit(msgspec.Struct, frozen=True):
    """Keys and values in a KV pool.

    Attributes:
        num_blocks: whole blocks.
        kv_cache_bytes: of those.
        num_tokens: that fit, as requests of the length that was asked about.
        num_requests: of that length at the same time.
        longest_context: tokens of the longest single request.
    """

    num_blocks: int
    kv_cache_bytes: int
    num_tokens: int
    num_requests: int
    longest_context: int


def fit(geometry: KVGeometry, memory_bytes: int, context_tokens: int, num_scheduled_tokens: int = 1) -> Fit:
    """What fits in `memory_bytes`.

    Args:
        geometry: of the cache.
        memory_bytes: for the KV pool; less than 0 is as good as nothing.
        context_tokens: of a request.
        num_scheduled_tokens: that a step computes at most: windows must hold them.
    """
    num_blocks = geometry.num_blocks_in(memory_bytes)
    kv_cache_bytes = num_blocks * geometry.bytes_per_block
    return Fit(
        num_blocks=num_blocks,
        kv_cache_bytes=kv_cache_bytes,
        num_tokens=geometry.num_tokens_in(kv_cache_bytes, context_tokens),
        num_requests=geometry.num_requests_in(kv_cache_bytes, context_tokens),
        longest_context=geometry.longest_context_in(kv_cache_bytes, num_scheduled_tokens),
    )


def what_if(geometry: KVGeometry) -> list[tuple[Literal["actual", "what-if"], KVGeometry]]:
    """The geometry with every number of KV heads that is possible, most first, labelled `actual` or `what-if`."""
    variants = geometry.what_if()
    if geometry not in variants:
        variants.insert(0, geometry)
    return [("actual" if variant == geometry else "what-if", variant) for variant in variants]
