"""Every family's published model: what its KV storage takes is what geometry says, to the byte."""

import pytest
import torch

from engine.dtypes import KV_FORMATS, KVFormat
from engine.models.registry import FAMILIES, PAGES, load_spec
from engine.models.spec import DecoderSpec
from kvcache.geometry import KVGeometry
from kvcache.storage import KVStorage

BLOCK_SIZES = (1, 8, 16, 32, 256)
RANKS = (1, 2, 4, 8)
NUM_BLOCKS = 3
NO_MEMORY = torch.device("meta")
"""Tensors of these models' real sizes; tests/kvcache/test_storage.py allocates smaller ones for real."""

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "fp8_e4m3": torch.float8_e4m3fn,
    "int8": torch.int8,
}


def test_every_kv_format_is_tested() -> None:
    assert set(DTYPES) == set(KV_FORMATS)


@pytest.mark.parametrize("architecture", [page.family.architectures[0] for page in PAGES])
def test_storage_takes_geometrys_bytes(architecture: str) -> None:
    spec = load_spec({**FAMILIES[architecture].published.config, "architectures": [architecture]})
    num_checked = 0
    for name, kv_format in KV_FORMATS.items():
        # Wide formats differ in nothing but their width.
        for block_size in BLOCK_SIZES if name in ("bfloat16", "fp8_e4m3", "int8") else (16,):
            whole = spec.kv_geometry(kv_format.dtype_bytes, block_size, kv_format.scale_bytes)
            assert whole.bytes_per_token == bytes_per_token(spec, kv_format)
            for geometry in ranks(whole):
                storage = KVStorage(geometry, NUM_BLOCKS, DTYPES[name], NO_MEMORY)
                assert storage.nbytes == NUM_BLOCKS * geometry.bytes_per_block
                num_checked += 1
    assert num_checked >= 3 * len(BLOCK_SIZES) + 3


def ranks(geometry: KVGeometry) -> list[KVGeometry]:
    """What a device holds, for every number of devices that the heads can be divided among."""
    found = []
    for tensor_parallel in RANKS:
        try:
            rank = geometry.per_rank(tensor_parallel)
        except ValueError:
            assert any(
                layer.num_q_heads % tensor_parallel
                or (layer.num_kv_heads % tensor_parallel and tensor_parallel % layer.num_kv_heads)
                for layer in geometry.layers
            )
            continue
        for layer, whole in zip(rank.layers, geometry.layers, strict=True):
            assert layer.num_kv_heads == max(1, whole.num_kv_heads // tensor_parallel)
        found.append(rank)
    return found


def bytes_per_token(spec: DecoderSpec, kv_format: KVFormat) -> int:
    """Counted vector by vector."""
    total = 0
    for layer in spec.layers:
        for head_dim in (layer.k_head_dim, layer.v_head_dim):
            total += layer.num_kv_heads * (head_dim * kv_format.dtype_bytes + kv_format.scale_bytes)
    return total
