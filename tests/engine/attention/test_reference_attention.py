"""The reference kernels and backend against attention computed token by token."""

import pytest
import torch

from engine.attention.reference import MIN_FILL, ReferenceBackend, group_by_length
from engine.batch import build_batch
from engine.kernels import reference, reference_attention
from engine.models.spec import Activation, LayerSpec, MLPSpec
from engine.request import Request, SamplingParams, ScheduledBatch, ScheduledRequest
from kvcache.geometry import KVGeometry, LayerGeometry
from kvcache.storage import KVStorage
from tests.engine.attention.naive_attention import Case, Shape, make_case, naive_attention

RAGGED = ([1, 7, 1, 5, 1, 7], [19, 7, 17, 12, 3, 30])


def test_sequences_are_grouped_by_query_len_and_length() -> None:
    assert group_by_length([1, 1, 8, 1], [100, 90, 8, 20]) == [[2], [0, 1], [3]]
    assert group_by_length([], []) == []


def test_a_group_wastes_no_more_than_its_share() -> None:
    seq_lens = list(range(1, 200, 7))
    groups = group_by_length([1] * len(seq_lens), seq_lens)
    assert sorted(seq for group in groups for seq in group) == list(range(len(seq_lens)))
    for group in groups:
        lengths = [seq_lens[seq] for seq in group]
        assert min(lengths) >= MIN_FILL * max(lengths)


def test_causal_mask() -> None:
    mask = reference_attention.causal_mask(torch.tensor([2, 3]), torch.arange(4), None)
    assert mask.tolist() == [[True, True, True, False], [True] * 4]
    mask = reference_attention.causal_mask(torch.tensor([2, 3]), torch.arange(4), 2)
    assert mask.tolist() == [[False, True, True, False], [False, False, True, True]]


@pytest.mark.parametrize("window", [None, 1, 5, 64])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
def test_paged_attention_equals_naive(num_kv_heads: int, window: int | None) -> None:
    case = make_case(Shape(num_kv_heads=num_kv_heads, v_head_dim=24), *RAGGED, torch.float64, unused=0)
    out = reference.paged_attention(
        case.q,
        case.cache,
        case.block_tables,
        cu_seqlens_q=case.cu_seqlens_q,
        seq_lens=case.seq_lens,
        softmax_scale=0.3,
        sliding_window=window,
    )
    torch.testing.assert_close(out, naive_attention(case, 0.3, window), atol=1e-12, rtol=0)


@pytest.mark.parametrize("window", [None, 5])
def test_reference_backend_equals_naive(window: int | None) -> None:
    shape = Shape(v_head_dim=24)
    case = make_case(shape, *RAGGED, torch.float64, unused=0)
    storage = _storage(case)
    backend = ReferenceBackend(_Spec(shape, window), storage)
    batch = _schedule(case)
    backend.plan(build_batch(batch, shape.block_size, torch.device("cpu")))
    k, v = _newest(case, case.k_cache), _newest(case, case.v_cache)
    reference.store_kv(k, v, *backend.kv_target(0))
    out = backend.forward(0, case.q)
    expected = naive_attention(case, 0.3, window)
    torch.testing.assert_close(out, expected.flatten(1), atol=1e-12, rtol=0)


class _Spec:
    """What the backend reads of a DecoderSpec."""

    def __init__(self, shape: Shape, window: int | None) -> None:
        mlp = MLPSpec(8, Activation.RELU, is_gated=False)
        layer = LayerSpec(*shape[:4], softmax_scale=0.3, mlp=mlp, sliding_window=window)
        self.layers, self.num_layers = (layer,), 1


def _storage(case: Case) -> KVStorage:
    """The case's cache with this step's slots emptied: the backend has to fill them."""
    num_blocks, block_size, num_kv_heads, k_head_dim = case.k_cache.shape
    layer = LayerGeometry(case.q.shape[1], num_kv_heads, k_head_dim, case.v_cache.shape[-1])
    geometry = KVGeometry(layers=(layer,), dtype_bytes=8, block_size=block_size)
    storage = KVStorage(geometry, num_blocks, torch.float64, torch.device("cpu"))
    storage.k(0).copy_(case.k_cache)
    storage.v(0).copy_(case.v_cache)
    for block, offset in _newest_slots(case):
        storage.k(0)[block, offset] = 0
        storage.v(0)[block, offset] = 0
    return storage


def _newest_slots(case: Case) -> list[tuple[int, int]]:
    """Block and offset of every token of the step."""
    block_size, slots = case.k_cache.shape[1], []
    for seq, seq_len in enumerate(case.seq_lens.tolist()):
        query_len = int(case.cu_seqlens_q[seq + 1] - case.cu_seqlens_q[seq])
        slots += [
            (int(case.block_tables[seq, p // block_size]), p % block_size) for p in range(seq_len - query_len, seq_len)
        ]
    return slots


def _newest(case: Case, cache: torch.Tensor) -> torch.Tensor:
    return torch.stack([cache[block, offset] for block, offset in _newest_slots(case)])


def _schedule(case: Case) -> ScheduledBatch:
    items = []
    for seq, seq_len in enumerate(case.seq_lens.tolist()):
        query_len = int(case.cu_seqlens_q[seq + 1] - case.cu_seqlens_q[seq])
        request = Request(request_id=str(seq), prompt_token_ids=[0] * seq_len, sampling_params=SamplingParams())
        items.append(ScheduledRequest(request, seq_len - query_len, query_len, [case.block_tables[seq].tolist()]))
    return ScheduledBatch(items)
