"""Specs in words, and layers by their attention."""

import msgspec

from engine.models import describe
from engine.models.spec import (
    Activation,
    DecoderSpec,
    EmbeddingSpec,
    HeadSpec,
    LayerSpec,
    LinearScaling,
    MLPSpec,
    NormKind,
    NormSpec,
    RopeSpec,
)
from server.cli.planning import group_layers

NORM = NormSpec(NormKind.RMS, 1e-6)
LAYER = LayerSpec(8, 2, 16, 16, 0.25, MLPSpec(8, Activation.SILU, is_gated=True))


def make_spec(*layers: LayerSpec, **changes: object) -> DecoderSpec:
    spec = DecoderSpec("Test", 10, 32, 64, layers, NORM, HeadSpec(is_tied=True, norm=NORM))
    return msgspec.structs.replace(spec, **changes)


def test_layers_that_differ_are_grouped() -> None:
    windowed = msgspec.structs.replace(LAYER, sliding_window=512)
    spec = make_spec(*[windowed] * 5, msgspec.structs.replace(LAYER, num_kv_heads=4, v_head_dim=24))
    many, one = group_layers(spec)
    assert (many.num_layers, many.num_kv_heads, many.sliding_window) == (5, 2, 512)
    assert (one.num_layers, one.num_kv_heads, one.v_head_dim, one.sliding_window) == (1, 4, 24, None)
    assert describe.heads(spec) == "8 on 2-4"
    assert describe.head_dim(spec) == "16 / 16-24"
    assert describe.windows(spec) == "512 tokens in 5 of 6 layers"


def test_positions() -> None:
    turned = msgspec.structs.replace(LAYER, rope=RopeSpec(1e4, 16))
    partial = msgspec.structs.replace(LAYER, rope=RopeSpec(1e4, 4, is_interleaved=True, scaling=LinearScaling(2.0)))
    sloped = msgspec.structs.replace(LAYER, alibi_slopes=(0.5,) * 8)
    assert describe.positions(make_spec(turned)) == "rope"
    assert describe.positions(make_spec(partial)) == "rope (4 of 16, interleaved, linear)"
    assert describe.positions(make_spec(sloped)) == "ALiBi"
    assert describe.positions(make_spec(LAYER)) == "none"
    assert describe.positions(make_spec(LAYER, embedding=EmbeddingSpec(has_positions=True))) == "learned"
    assert describe.positions(make_spec(turned, turned, LAYER)) == "rope in 2 layers, none in 1 layers"
