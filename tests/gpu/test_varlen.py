"""PyTorch's own FlashAttention over our cache, where the installed version has block tables."""

import pytest
import torch

from engine.attention import varlen
from engine.kernels import reference
from kvcache.storage import LayerCache
from tests.gpu.exactness import assert_exact


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("window", [None, 100])
def test_a_mixed_batch(window: int | None, dtype: torch.dtype, gpu: torch.device) -> None:
    """Called as VarlenBackend calls it: several sequences with contexts of their own, blocks in random order."""
    if missing := varlen.missing_arguments():
        pytest.skip(f"varlen_attn of PyTorch {torch.__version__} has no {', '.join(missing)}")
    block_size, query_lens, seq_lens = 256, [1, 200, 64, 1], [700, 200, 1500, 1]
    counts = [-(-seq_len // block_size) for seq_len in seq_lens]
    tables = torch.nn.utils.rnn.pad_sequence(
        list(torch.randperm(sum(counts), device=gpu).split(counts)), batch_first=True
    )
    q = torch.randn(sum(query_lens), 32, 128, device=gpu).to(dtype)
    cache = LayerCache(*(torch.randn(sum(counts), block_size, 8, 128, device=gpu).to(dtype) for _ in range(2)))
    cu_seqlens_q, lengths = torch.tensor([0, *query_lens], device=gpu).cumsum(0), torch.tensor(seq_lens, device=gpu)
    out = varlen.load_varlen_attn()(
        *(q, cache.k, cache.v, cu_seqlens_q.int(), torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()),
        *(max(query_lens), max(seq_lens)),
        scale=128**-0.5,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=True,
        seqused_k=lengths.int(),
        block_table=tables.int(),
        num_splits=varlen.NUM_SPLITS,
    )
    exact = reference.paged_attention(
        *(q.double(), LayerCache(cache.k.double(), cache.v.double()), tables),
        cu_seqlens_q=cu_seqlens_q,
        seq_lens=lengths,
        softmax_scale=128**-0.5,
        sliding_window=window,
    )
    assert_exact(out, exact, dtype)
