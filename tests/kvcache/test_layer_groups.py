"""Layers with windows: which groups they make, how many blocks a request holds, and what that takes in bytes."""

import pytest
import torch

from kvcache.geometry import KVGeometry, LayerGeometry
from kvcache.layer_groups import LayerGroup, group_layers
from kvcache.manager import KVCacheManager
from kvcache.storage import KVStorage


def geometry(pattern: str, window: int, *, head_dim: int = 64, block_size: int = 16) -> KVGeometry:
    """`f` a full layer, `w` one with a window."""
    layers = tuple(LayerGeometry(4, 1, head_dim, head_dim, window if kind == "w" else None) for kind in pattern)
    return KVGeometry(layers, dtype_bytes=2, block_size=block_size)


GEMMA_3_1B = geometry("wwwwwf" * 4 + "ww", 512, head_dim=256)
GPT_OSS_20B = geometry("wf" * 12, 128)
MISTRAL_7B = geometry("w" * 32, 4096)


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        pytest.param(GEMMA_3_1B, [(4, None), *[(4, 512)] * 5, (2, 512)], id="5 to 1"),
        pytest.param(GPT_OSS_20B, [(12, None), (12, 128)], id="1 to 1"),
        pytest.param(MISTRAL_7B, [(32, 4096)], id="all windows"),
        pytest.param(geometry("ffff", 1), [(4, None)], id="none"),
    ],
)
def test_groups_are_as_large_as_the_rarest_kind(model: KVGeometry, sizes: list[tuple[int, int | None]]) -> None:
    assert [(len(group.layer_indices), group.sliding_window) for group in model.groups] == sizes
    assert sorted(idx for group in model.groups for idx in group.layer_indices) == list(range(len(model.layers)))
    for layer_idx, group in enumerate(model.group_indices):
        assert layer_idx in model.groups[group].layer_indices


def test_layers_of_different_shapes_and_windows_keep_every_token() -> None:
    groups = group_layers(["wide", "narrow", "wide"], [8, None, 8])
    assert groups == (LayerGroup((0, 1, 2), None),)
    assert len(group_layers(["wide", "narrow"], [None, None])) == 1
    assert group_layers(["wide", "narrow"], [8, 8]) == (LayerGroup((0, 1), 8),)


@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize("window", [1, 5, 16, 17])
@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_a_request_never_holds_more_than_is_planned(window: int, block_size: int, chunk: int) -> None:
    model = geometry("wf", window, block_size=block_size)
    kv = KVCacheManager(model, 200, enable_prefix_cache=False)
    kv.find_cached_prefix("r", [])
    most = 0
    for num_tokens in range(chunk, 81, chunk):
        assert kv.allocate_slots("r", num_tokens) is not None
        most = max(most, kv.num_used_blocks)
        assert kv.num_used_blocks <= model.num_blocks(num_tokens, chunk)
        kv.commit_tokens("r", num_tokens, range)
    # The bound is one block more than a request needs whose steps begin at the beginning of a block.
    assert most >= model.num_blocks(80 // chunk * chunk, chunk) - 1


def test_long_contexts_take_the_full_layers_only() -> None:
    assert GPT_OSS_20B.bytes_per_token == 24 * 2 * 64 * 2
    assert GPT_OSS_20B.bytes_per_old_token == GPT_OSS_20B.bytes_per_token // 2
    assert GPT_OSS_20B.num_blocks(16_000) == 1000 + 9
    assert GPT_OSS_20B.bytes_per_request(16_000) == 1009 * GPT_OSS_20B.bytes_per_block
    assert GPT_OSS_20B.bytes_by_window == {128: 12 * 256, None: 12 * 256}
    kept_whole = 2 * 1000 * GPT_OSS_20B.bytes_per_block
    assert GPT_OSS_20B.num_requests_in(10 * kept_whole, 16_000) == 19
    assert GPT_OSS_20B.num_tokens_in(10 * kept_whole, 16_000) == 20_000 * 16_000 // 1009
    assert GPT_OSS_20B.longest_context_in(1009 * GPT_OSS_20B.bytes_per_block) == 16_000
    assert MISTRAL_7B.longest_context_in(300 * MISTRAL_7B.bytes_per_block) > 1 << 30


@pytest.mark.parametrize("model", [GEMMA_3_1B, GPT_OSS_20B, MISTRAL_7B])
def test_storage_is_the_geometrys_bytes(model: KVGeometry) -> None:
    storage = KVStorage(model, 3, torch.bfloat16, torch.device("cpu"))
    assert storage.nbytes == 3 * model.bytes_per_block
    first, second = (model.groups[i].layer_indices[0] for i in (0, -1))
    assert storage.k(first).data_ptr() == storage.k(second).data_ptr()
