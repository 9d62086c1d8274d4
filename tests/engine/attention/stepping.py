"""Backends side by side, step after step: prompts, decodes, chunks after a context, and all of these together."""

import torch

from engine.attention.base import AttentionBackend
from engine.batch import build_batch
from engine.kernels import reference
from engine.models.alibi import alibi_slopes
from engine.models.spec import Activation, DecoderSpec, HeadSpec, LayerSpec, MLPSpec, NormKind, NormSpec
from engine.request import Request, SamplingParams, ScheduledBatch, ScheduledRequest
from kvcache.storage import EIGHT_BIT_DTYPES, KVStorage

MLP = MLPSpec(8, Activation.RELU, is_gated=False)
PLAIN = (
    LayerSpec(6, 2, 16, 16, softmax_scale=0.3, mlp=MLP),
    LayerSpec(6, 2, 16, 16, softmax_scale=0.3, mlp=MLP, sliding_window=9),
)
FEATURED = (
    LayerSpec(6, 2, 16, 16, softmax_scale=0.3, mlp=MLP, softcap=2.0, alibi_slopes=alibi_slopes(6)),
    LayerSpec(6, 2, 16, 16, softmax_scale=0.3, mlp=MLP, sliding_window=9, has_sinks=True),
)
STEPS = (((0, 20), (0, 7)), ((20, 21), (7, 8)), ((21, 33), (8, 9)), ((33, 34), (9, 30)))
"""From and to which token each of two requests goes."""


def spec_of(layers: tuple[LayerSpec, ...] = FEATURED) -> DecoderSpec:
    norm = NormSpec(NormKind.RMS, 1e-6)
    return DecoderSpec("Test", 10, 48, 200, layers, norm, HeadSpec(is_tied=True, norm=norm))


def storage_of(
    spec: DecoderSpec, device: torch.device, kv_cache_dtype: torch.dtype = torch.float32, block_size: int = 16
) -> KVStorage:
    scale_bytes = 2 if kv_cache_dtype in EIGHT_BIT_DTYPES else 0
    geometry = spec.kv_geometry(kv_cache_dtype.itemsize, block_size, scale_bytes)
    return KVStorage(geometry, 12, kv_cache_dtype, device)


def assert_equal_steps(spec: DecoderSpec, backends: list[AttentionBackend], device: torch.device) -> None:
    """Each backend, on a storage of its own, gives what the first one gives."""
    num_groups = len(spec.kv_geometry(4, 16).groups)
    torch.manual_seed(0)
    # A block belongs to one group of layers at a time.
    tables = [[[5, 1, 7], [11, 3, 8]][:num_groups], [[2, 9, 0], [4, 10, 6]][:num_groups]]
    for steps in STEPS:
        items = [
            ScheduledRequest(make_request(i), start, stop - start, tables[i]) for i, (start, stop) in enumerate(steps)
        ]
        batch = build_batch(ScheduledBatch(items), 16, device)
        num_tokens = sum(stop - start for start, stop in steps)
        for layer_idx, layer in enumerate(spec.layers):
            q, k, v = (torch.randn(num_tokens, heads, 16, device=device) for heads in (6, 2, 2))
            sinks = torch.randn(6, device=device) if layer.has_sinks else None
            outs = []
            for backend in backends:
                backend.plan(batch)
                reference.store_kv(k, v, *backend.kv_target(layer_idx))
                outs.append(backend.forward(layer_idx, q, sinks))
            for out in outs[1:]:
                torch.testing.assert_close(out, outs[0], atol=1e-5, rtol=0)


def make_request(number: int) -> Request:
    return Request(request_id=str(number), prompt_token_ids=[0] * 60, sampling_params=SamplingParams())
