"""What a request took of the KV cache, in bytes: the engine's counts, priced by geometry."""

import functools
from collections.abc import Sequence

import msgspec

from engine.request import KVReceipt
from kvcache.geometry import KVGeometry
from server.protocol.responses import KVReceiptOut


def price_receipt(receipt: KVReceipt, num_cached_tokens: int, geometry: KVGeometry) -> KVReceiptOut:
    """The receipt of one request of the engine."""
    bytes_per_block = geometry.bytes_per_block
    mha, mqa = _variants(geometry)
    return KVReceiptOut(
        blocks=receipt.num_blocks,
        bytes=receipt.num_blocks * bytes_per_block,
        peak_bytes=receipt.num_peak_blocks * bytes_per_block,
        cached_tokens=num_cached_tokens,
        wasted_slots=receipt.num_wasted_slots,
        mha_bytes=_bytes_as(mha, geometry, receipt),
        mqa_bytes=_bytes_as(mqa, geometry, receipt),
    )


def add_receipts(receipts: Sequence[KVReceiptOut]) -> KVReceiptOut:
    """One receipt for several requests."""
    names = KVReceiptOut.__struct_fields__
    return msgspec.convert({name: sum(getattr(one, name) for one in receipts) for name in names}, KVReceiptOut)


@functools.lru_cache(maxsize=64)
def _variants(geometry: KVGeometry) -> tuple[KVGeometry, KVGeometry]:
    return geometry.as_mha(), geometry.with_num_kv_heads(1)


def _bytes_as(variant: KVGeometry, geometry: KVGeometry, receipt: KVReceipt) -> int:
    """What the blocks of a request would take with other heads.

    Where layers differ in their heads, a variant in which they do not may be grouped otherwise, and so its blocks are
    others: then it is what that many tokens take.
    """
    if variant.groups == geometry.groups:
        return receipt.num_blocks * variant.bytes_per_block
    return variant.bytes_per_request(receipt.num_tokens)
