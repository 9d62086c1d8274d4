import pytest

from kvcache.geometry import AttentionType, KVGeometry, LayerGeometry


def geometry(
    num_layers: int, num_q_heads: int, num_kv_heads: int, head_dim: int, *, dtype_bytes: int = 2, block_size: int = 16
) -> KVGeometry:
    layer = LayerGeometry(num_q_heads, num_kv_heads, head_dim, head_dim)
    return KVGeometry((layer,) * num_layers, dtype_bytes, block_size)


SMOLLM2 = geometry(30, 9, 3, 64)


@pytest.mark.parametrize(
    ("shape", "bytes_per_token"),
    [
        pytest.param((30, 9, 3, 64), 23_040, id="SmolLM2-135M"),
        pytest.param((32, 32, 32, 128), 524_288, id="Llama-2-7B"),
        pytest.param((32, 32, 8, 128), 131_072, id="Llama-3-8B"),
        pytest.param((32, 71, 1, 64), 8_192, id="Falcon-7B"),
        pytest.param((12, 12, 12, 64), 36_864, id="GPT-2"),
    ],
)
def test_bytes_per_token_of_known_models(shape: tuple[int, int, int, int], bytes_per_token: int) -> None:
    assert geometry(*shape).bytes_per_token == bytes_per_token
    assert geometry(*shape, dtype_bytes=4).bytes_per_token == 2 * bytes_per_token


def test_mha_has_a_kv_head_for_each_query_head_of_every_layer() -> None:
    assert SMOLLM2.as_mha() == geometry(30, 9, 9, 64)
    mixed = KVGeometry((LayerGeometry(4, 2, 8, 8), LayerGeometry(6, 1, 8, 8)), dtype_bytes=2, block_size=16)
    assert [layer.num_kv_heads for layer in mixed.as_mha().layers] == [4, 6]
    assert mixed.as_mha().attention_type is AttentionType.MHA


@pytest.mark.parametrize(
    ("num_q_heads", "num_kv_heads", "expected"),
    [
        (9, 9, AttentionType.MHA),
        (9, 3, AttentionType.GQA),
        (9, 1, AttentionType.MQA),
        (1, 1, AttentionType.MHA),
    ],
)
def test_attention_type(num_q_heads: int, num_kv_heads: int, expected: AttentionType) -> None:
    assert geometry(2, num_q_heads, num_kv_heads, 64).attention_type is expected


def test_layers_may_differ() -> None:
    layers = (LayerGeometry(8, 8, 64, 64), LayerGeometry(8, 2, 192, 128))
    mixed = KVGeometry(layers, dtype_bytes=2, block_size=16)
    assert mixed.attention_type is AttentionType.MIXED
    assert mixed.bytes_per_token == (8 * (64 + 64) + 2 * (192 + 128)) * 2


@pytest.mark.parametrize(("num_tokens", "num_blocks"), [(0, 0), (1, 1), (16, 1), (17, 2), (32, 2)])
def test_tokens_occupy_whole_blocks(num_tokens: int, num_blocks: int) -> None:
    assert SMOLLM2.num_blocks(num_tokens) == num_blocks
    assert SMOLLM2.bytes_per_request(num_tokens) == num_blocks * 16 * 23_040


def test_memory_holds_whole_blocks_only() -> None:
    two_blocks = 2 * SMOLLM2.bytes_per_block
    assert SMOLLM2.num_blocks_in(two_blocks) == 2
    assert SMOLLM2.num_blocks_in(two_blocks - 1) == 1
    assert SMOLLM2.num_blocks_in(-1) == 0
    assert SMOLLM2.longest_context_in(two_blocks) == 32
    assert SMOLLM2.longest_context_in(two_blocks - 1) == 16
    assert SMOLLM2.num_requests_in(two_blocks, 16) == 2
    assert SMOLLM2.num_requests_in(two_blocks, 17) == 1
    assert SMOLLM2.num_requests_in(two_blocks, 33) == 0


def test_the_longest_context_fits_and_one_token_more_does_not() -> None:
    for memory_bytes in (0, 1, 368_639, 368_640, 1_000_000, 10**9):
        longest = SMOLLM2.longest_context_in(memory_bytes)
        assert SMOLLM2.bytes_per_request(longest) <= memory_bytes
        assert SMOLLM2.bytes_per_request(longest + 1) > memory_bytes


def test_what_if_covers_every_divisor_most_heads_first() -> None:
    rows = SMOLLM2.what_if()
    assert [row.layers[0].num_kv_heads for row in rows] == [9, 3, 1]
    assert [row.bytes_per_token for row in rows] == [69_120, 23_040, 7_680]
    assert SMOLLM2 in rows


def test_what_if_of_unequal_layers_takes_common_divisors() -> None:
    layers = (LayerGeometry(8, 8, 64, 64), LayerGeometry(12, 4, 64, 64))
    rows = KVGeometry(layers, dtype_bytes=2, block_size=16).what_if()
    assert [row.layers[0].num_kv_heads for row in rows] == [4, 2, 1]


def test_with_num_kv_heads_refuses_what_does_not_divide() -> None:
    with pytest.raises(ValueError, match="multiple of num_kv_heads, got 9 and 2"):
        SMOLLM2.with_num_kv_heads(2)


@pytest.mark.parametrize("field", ["num_q_heads", "num_kv_heads", "k_head_dim", "v_head_dim"])
@pytest.mark.parametrize("value", [0, -1])
def test_layer_sizes_are_positive(field: str, value: int) -> None:
    sizes = {"num_q_heads": 8, "num_kv_heads": 2, "k_head_dim": 64, "v_head_dim": 64, field: value}
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got {value}"):
        LayerGeometry(**sizes)


@pytest.mark.parametrize("field", ["dtype_bytes", "block_size"])
def test_geometry_sizes_are_positive(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        geometry(1, 8, 2, 64, **{field: 0})


def test_a_geometry_has_layers() -> None:
    with pytest.raises(ValueError, match="at least one attention layer"):
        KVGeometry((), dtype_bytes=2, block_size=16)


def test_scales_are_counted() -> None:
    eight_bit = SMOLLM2.with_format(dtype_bytes=1, scale_bytes=2)
    assert eight_bit.bytes_per_token == 30 * 3 * (64 + 64 + 2 + 2) == 11_880
    assert eight_bit.bytes_per_block == 16 * 11_880
    assert eight_bit.bytes_by_window == {None: 11_880}
    assert eight_bit.per_rank(3).bytes_per_token == 11_880 // 3
    assert [variant.bytes_per_token for variant in eight_bit.what_if()] == [35_640, 11_880, 3_960]
    assert eight_bit.with_format(dtype_bytes=2, scale_bytes=0) == SMOLLM2


def test_scales_are_not_negative() -> None:
    with pytest.raises(ValueError, match="scale_bytes must be at least 0, got -1"):
        SMOLLM2.with_format(dtype_bytes=1, scale_bytes=-1)
