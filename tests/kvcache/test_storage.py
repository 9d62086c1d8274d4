import pytest
import torch

from kvcache.geometry import KVGeometry, LayerGeometry
from kvcache.storage import EIGHT_BIT_DTYPES, SCALE_DTYPE, KVStorage

CPU = torch.device("cpu")
LAYERS = {
    "mha": (LayerGeometry(9, 9, 64, 64),) * 2,
    "gqa": (LayerGeometry(9, 3, 64, 64),) * 2,
    "mqa": (LayerGeometry(9, 1, 64, 64),) * 2,
    "mixed": (LayerGeometry(8, 8, 16, 16), LayerGeometry(8, 2, 32, 32), LayerGeometry(8, 1, 7, 7)),
    "k wider than v": (LayerGeometry(4, 2, 24, 16),) * 2,
    "both kinds": (LayerGeometry(4, 4, 16, 16), LayerGeometry(4, 1, 5, 9)),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8]


def geometry_of(layers: tuple[LayerGeometry, ...], dtype: torch.dtype, block_size: int) -> KVGeometry:
    return KVGeometry(layers, dtype.itemsize, block_size, 2 if dtype in EIGHT_BIT_DTYPES else 0)


def storage(layers: tuple[LayerGeometry, ...], dtype: torch.dtype, *, block_size: int, num_blocks: int) -> KVStorage:
    return KVStorage(geometry_of(layers, dtype, block_size), num_blocks, dtype, CPU)


@pytest.mark.parametrize("block_size", [1, 8, 16, 32, 256])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS.keys())
def test_measured_bytes_are_geometrys(layers: tuple[LayerGeometry, ...], dtype: torch.dtype, block_size: int) -> None:
    geometry = geometry_of(layers, dtype, block_size)
    for num_blocks in (1, 3):
        assert KVStorage(geometry, num_blocks, dtype, CPU).nbytes == geometry.bytes_per_block * num_blocks


def test_smollm2_takes_23040_bytes_a_token() -> None:
    geometry = KVGeometry((LayerGeometry(9, 3, 64, 64),) * 30, dtype_bytes=2, block_size=16)
    assert KVStorage(geometry, 5, torch.bfloat16, CPU).nbytes == 5 * 16 * 23_040


@pytest.mark.parametrize("dtype", EIGHT_BIT_DTYPES, ids=str)
def test_smollm2_in_8_bits_takes_11880_bytes_a_token(dtype: torch.dtype) -> None:
    # 30 layers * 3 heads * (64 + 64 numbers of 1 byte + 2 scales of 2 bytes).
    kv = storage((LayerGeometry(9, 3, 64, 64),) * 30, dtype, block_size=16, num_blocks=5)
    assert kv.nbytes == 5 * 16 * 11_880
    assert kv.geometry.bytes_per_token == 11_880


@pytest.mark.parametrize("dtype", EIGHT_BIT_DTYPES, ids=str)
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS.keys())
def test_8_bit_caches_have_a_scale_a_token_and_head(layers: tuple[LayerGeometry, ...], dtype: torch.dtype) -> None:
    kv = storage(layers, dtype, block_size=4, num_blocks=3)
    caches = [kv.layer(layer_idx) for layer_idx in range(len(layers))]
    scales = [scale for cache in caches for scale in (cache.k_scale, cache.v_scale) if scale is not None]
    assert len(scales) == 2 * len(layers)
    for number, scale in enumerate(scales):
        assert scale.dtype is SCALE_DTYPE
        assert scale.shape == (3, 4, layers[number // 2].num_kv_heads)
        assert scale.is_contiguous()
        assert not scale.any()
        scale.fill_(number + 1)
    assert all((scale == number + 1).all() for number, scale in enumerate(scales))
    assert not any(cache.k.any() or cache.v.any() for cache in caches)


def test_wide_caches_have_none() -> None:
    cache = storage(LAYERS["gqa"], torch.bfloat16, block_size=4, num_blocks=3).layer(0)
    assert cache.k_scale is None
    assert cache.v_scale is None


def test_groups_of_layers_share_scales_as_they_share_numbers() -> None:
    layers = (LayerGeometry(4, 2, 8, 8), LayerGeometry(4, 2, 8, 8, sliding_window=5))
    kv = storage(layers, torch.int8, block_size=4, num_blocks=3)
    assert kv.layer(0) == kv.layer(1)
    assert kv.nbytes == 3 * 4 * 2 * 2 * (8 + 2) == 3 * kv.geometry.bytes_per_block


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS.keys())
def test_views_have_the_shape_of_their_layer(layers: tuple[LayerGeometry, ...]) -> None:
    kv = storage(layers, torch.float32, block_size=4, num_blocks=3)
    for layer_idx, layer in enumerate(layers):
        assert kv.k(layer_idx).shape == (3, 4, layer.num_kv_heads, layer.k_head_dim)
        assert kv.v(layer_idx).shape == (3, 4, layer.num_kv_heads, layer.v_head_dim)
        assert kv.k(layer_idx).is_contiguous()
        assert kv.v(layer_idx).is_contiguous()


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS.keys())
def test_every_slot_starts_as_zero_and_is_its_own(layers: tuple[LayerGeometry, ...]) -> None:
    kv = storage(layers, torch.float32, block_size=4, num_blocks=3)
    views = [view(layer_idx) for layer_idx in range(len(layers)) for view in (kv.k, kv.v)]
    assert all(not view.any() for view in views)
    for number, view in enumerate(views):
        view.fill_(number)
    assert all((view == number).all() for number, view in enumerate(views))


def test_writes_through_a_slot_address_are_seen() -> None:
    kv = storage(LAYERS["gqa"], torch.float32, block_size=4, num_blocks=3)
    block_id, offset = 2, 1
    kv.k(1).view(-1, 3, 64)[block_id * 4 + offset] = 7
    assert (kv.k(1)[block_id, offset] == 7).all()
    assert kv.k(1).sum() == 7 * 3 * 64
    assert not kv.v(1).any()


def test_the_dtype_is_as_wide_as_the_geometry_says() -> None:
    geometry = KVGeometry(LAYERS["gqa"], dtype_bytes=2, block_size=16)
    with pytest.raises(ValueError, match=r"must take 2 bytes, got torch.float32 of 4"):
        KVStorage(geometry, 1, torch.float32, CPU)


@pytest.mark.parametrize(
    ("dtype", "scale_bytes", "wanted"), [(torch.int8, 0, 2), (torch.int8, 4, 2), (torch.bool, 2, 0)]
)
def test_the_scales_are_as_wide_as_the_geometry_says(dtype: torch.dtype, scale_bytes: int, wanted: int) -> None:
    geometry = KVGeometry(LAYERS["gqa"], dtype_bytes=1, block_size=16, scale_bytes=scale_bytes)
    message = rf"scales of {dtype} take {wanted} bytes, got a geometry with {scale_bytes}"
    with pytest.raises(ValueError, match=message):
        KVStorage(geometry, 1, dtype, CPU)


def test_there_is_a_block() -> None:
    with pytest.raises(ValueError, match="num_blocks must be at least 1, got 0"):
        storage(LAYERS["gqa"], torch.float32, block_size=16, num_blocks=0)
