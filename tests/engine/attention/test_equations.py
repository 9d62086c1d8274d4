"""Attention against its definitions: "Attention Is All You Need" and PyTorch's own module, weights copied over.

Masks are where implementations go wrong, because PyTorch has two conventions. In torch.nn.MultiheadAttention a boolean
mask says True where a query must *not* look; in scaled_dot_product_attention True is where it *may*. Float masks are
added to the scores in both. headcount's masks (engine.kernels.reference_attention.causal_mask) are of the second kind.
"""

from typing import Any

import msgspec
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention.reference import ReferenceBackend
from engine.batch import build_batch
from engine.kernels import reference, reference_attention
from engine.layers.attention import Attention
from engine.layers.step import Step
from engine.models.alibi import alibi_slopes
from engine.models.spec import Activation, DecoderSpec, HeadSpec, LayerSpec, MLPSpec, NormKind, NormSpec
from engine.request import Request, SamplingParams, ScheduledBatch, ScheduledRequest
from kvcache.storage import KVStorage

CPU, BLOCK_SIZE, LENGTH = torch.device("cpu"), 4, 13
MULTI_HEAD = LayerSpec(
    *(6, 6, 8, 8),
    softmax_scale=8**-0.5,
    mlp=MLPSpec(8, Activation.RELU, is_gated=False),
    has_qkv_bias=True,
    has_o_bias=True,
)
HIDDEN_SIZE = 48


def attend(layer: LayerSpec, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    """Our attention over one sequence x [LENGTH, HIDDEN_SIZE], through the paged cache: 7 tokens, then one, then the rest."""
    norm = NormSpec(NormKind.RMS, 1e-6)
    spec = DecoderSpec("Test", 10, HIDDEN_SIZE, LENGTH, (layer,), norm, HeadSpec(is_tied=True, norm=norm))
    geometry, num_blocks = spec.kv_geometry(8, BLOCK_SIZE), -(-LENGTH // BLOCK_SIZE)
    backend = ReferenceBackend(spec, KVStorage(geometry, num_blocks, torch.float64, CPU))
    attention = Attention(layer, reference, {f"layers.0.{name}": p for name, p in parameters.items()}, "layers.0", 0)
    request = Request(request_id="r", prompt_token_ids=[0] * LENGTH, sampling_params=SamplingParams())
    outs = []
    for start, stop in ((0, 7), (7, 8), (8, LENGTH)):
        item = ScheduledRequest(request, start, stop - start, [list(range(num_blocks))])
        batch = build_batch(ScheduledBatch([item]), BLOCK_SIZE, CPU)
        backend.plan(batch)
        outs.append(attention(x[start:stop], Step(batch.input_ids, batch.positions, {}, backend)))
    return torch.cat(outs)


def random_parameters(layer: LayerSpec) -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = layer.shapes(HIDDEN_SIZE, vocab_size=10)
    return {name: torch.randn(shape, dtype=torch.float64) / 4 for name, shape in shapes.items()}


def pytorch_module(parameters: dict[str, Tensor]) -> torch.nn.MultiheadAttention:
    """PyTorch's multi-head attention with our weights."""
    module = torch.nn.MultiheadAttention(HIDDEN_SIZE, MULTI_HEAD.num_q_heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        module.in_proj_weight.copy_(parameters["qkv.weight"])
        module.in_proj_bias.copy_(parameters["qkv.bias"])
        module.out_proj.weight.copy_(parameters["o.weight"])
        module.out_proj.bias.copy_(parameters["o.bias"])
    return module.eval()


def ignored(window: int | None = None) -> Tensor:
    """[LENGTH, LENGTH] bool: True where a query must not look, as MultiheadAttention has it."""
    query, key = torch.arange(LENGTH).unsqueeze(1), torch.arange(LENGTH)
    is_future = key > query
    return is_future if window is None else is_future | (query - key >= window)


def as_float(mask: Tensor) -> Tensor:
    """The same mask to be added: minus infinity where True."""
    return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(mask, -torch.inf)


@pytest.mark.parametrize("window", [None, 1, 5])
@pytest.mark.parametrize("kind", ["boolean", "float"])
def test_equals_multihead_attention(kind: str, window: int | None) -> None:
    parameters = random_parameters(MULTI_HEAD)
    x = torch.randn(LENGTH, HIDDEN_SIZE, dtype=torch.float64)
    mask = ignored(window) if kind == "boolean" else as_float(ignored(window))
    with torch.no_grad():
        expected, _ = pytorch_module(parameters)(x[None], x[None], x[None], attn_mask=mask, need_weights=False)
    layer = msgspec.structs.replace(MULTI_HEAD, sliding_window=window)
    torch.testing.assert_close(attend(layer, parameters, x), expected[0], atol=1e-12, rtol=0)


def test_equals_multihead_attention_told_to_be_causal() -> None:
    parameters = random_parameters(MULTI_HEAD)
    x = torch.randn(LENGTH, HIDDEN_SIZE, dtype=torch.float64)
    with torch.no_grad():
        expected, _ = pytorch_module(parameters)(
            x[None], x[None], x[None], attn_mask=ignored(), is_causal=True, need_weights=False
        )
    torch.testing.assert_close(attend(MULTI_HEAD, parameters, x), expected[0], atol=1e-12, rtol=0)


def test_alibi_equals_multihead_attention_with_its_bias_as_float_mask() -> None:
    parameters = random_parameters(MULTI_HEAD)
    x = torch.randn(LENGTH, HIDDEN_SIZE, dtype=torch.float64)
    slopes = torch.tensor(alibi_slopes(MULTI_HEAD.num_q_heads), dtype=torch.float32).double()
    distance = torch.arange(LENGTH) - torch.arange(LENGTH).unsqueeze(1)
    mask = slopes[:, None, None] * distance + as_float(ignored())
    with torch.no_grad():
        expected, _ = pytorch_module(parameters)(x[None], x[None], x[None], attn_mask=mask, need_weights=False)
    layer = msgspec.structs.replace(MULTI_HEAD, alibi_slopes=alibi_slopes(MULTI_HEAD.num_q_heads))
    torch.testing.assert_close(attend(layer, parameters, x), expected[0], atol=1e-6, rtol=0)


def test_the_two_boolean_conventions_are_opposites() -> None:
    q, k, v = torch.randn(3, 1, 2, LENGTH, 8, dtype=torch.float64).unbind(0)
    causal = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    may_look = reference_attention.causal_mask(torch.arange(LENGTH), torch.arange(LENGTH), None)
    assert torch.equal(may_look, ~ignored())
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, attn_mask=may_look), causal)
    # MultiheadAttention's mask given to scaled_dot_product_attention lets queries see the future only, and the last
    # query nothing at all.
    wrong = F.scaled_dot_product_attention(q, k, v, attn_mask=ignored())
    assert not torch.allclose(wrong[:, :, 0], causal[:, :, 0])
    # Added masks mean the same in both.
    added = F.scaled_dot_product_attention(q, k, v, attn_mask=as_float(ignored()))
    torch.testing.assert_close(added, causal)


SHARED = {
    "multi-head": {},
    "grouped": {"num_kv_heads": 2},
    "multi-query": {"num_kv_heads": 1},
    "wide-values": {"num_kv_heads": 3, "v_head_dim": 12},
    "other-scale": {"softmax_scale": 0.7},
    "soft-cap": {"softcap": 1.5},
    "sinks": {"num_kv_heads": 2, "has_sinks": True},
    "window-cap-sinks-alibi": {
        "num_kv_heads": 2,
        "sliding_window": 4,
        "softcap": 1.5,
        "has_sinks": True,
        "alibi_slopes": alibi_slopes(6),
    },
}


@pytest.mark.parametrize("name", SHARED)
def test_equals_the_formulas(name: str) -> None:
    layer = msgspec.structs.replace(MULTI_HEAD, **SHARED[name])
    parameters = random_parameters(layer)
    x = torch.randn(LENGTH, HIDDEN_SIZE, dtype=torch.float64)
    torch.testing.assert_close(attend(layer, parameters, x), by_the_book(layer, parameters, x), atol=1e-6, rtol=0)


def by_the_book(layer: LayerSpec, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    """MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O, head after head, query after query (section 3.2.2).

    Query head i looks at key/value head i // num_q_per_kv (Shazeer 2019; Ainslie et al. 2023).
    """
    projected = x @ parameters["qkv.weight"].T + parameters["qkv.bias"]
    queries, keys, values = projected.split((layer.q_width, layer.k_width, layer.v_width), dim=1)
    heads = []
    for head in range(layer.num_q_heads):
        kv_head = head // (layer.num_q_heads // layer.num_kv_heads)
        q = queries[:, head * layer.k_head_dim :][:, : layer.k_head_dim]
        k = keys[:, kv_head * layer.k_head_dim :][:, : layer.k_head_dim]
        v = values[:, kv_head * layer.v_head_dim :][:, : layer.v_head_dim]
        sink = parameters["sinks"][head] if layer.has_sinks else None
        rows = [one_query(layer, head, i, q[i], k, v, sink) for i in range(LENGTH)]
        heads.append(torch.stack(rows))
    return torch.cat(heads, dim=1) @ parameters["o.weight"].T + parameters["o.bias"]


def one_query(layer: LayerSpec, head: int, place: int, q: Tensor, k: Tensor, v: Tensor, sink: Any) -> Tensor:
    """softmax(q K^T * scale) V over the keys that the query may see (section 3.2.1)."""
    first = 0 if layer.sliding_window is None else max(0, place + 1 - layer.sliding_window)
    scores = []
    for key in range(first, place + 1):
        score = float(q @ k[key]) * layer.softmax_scale
        if layer.softcap is not None:
            score = layer.softcap * float(torch.tanh(torch.tensor(score / layer.softcap, dtype=torch.float64)))
        if layer.alibi_slopes is not None:
            score -= layer.alibi_slopes[head] * (place - key)
        scores.append(score)
    weights = torch.tensor(scores, dtype=torch.float64).exp()
    total = weights.sum() + (0 if sink is None else sink.exp())
    return (weights / total) @ v[first : place + 1]
