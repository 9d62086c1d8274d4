"""DecoderSpec: everything that tells one decoder-only model from another, as data. No torch.

The decoder reads it and runs; the KV geometry, the parameter shapes and the plan are computed from it. MHA, GQA and
MQA are numbers in a LayerSpec, not code.
"""

from engine.models.spec.attention import QKNormScope, QKNormSpec, QueryGrowthSpec, ValueEmbeddingSpec
from engine.models.spec.decoder import DecoderSpec, EmbeddingSpec, HeadSpec, ResidualMixSpec
from engine.models.spec.layer import LayerSpec, NormPlace
from engine.models.spec.mlp import Activation, MLPSpec, MoESpec
from engine.models.spec.norm import NormKind, NormSpec
from engine.models.spec.rope import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    RopeScaling,
    RopeSpec,
    YarnScaling,
)

__all__ = [
    "Activation",
    "DecoderSpec",
    "DynamicScaling",
    "EmbeddingSpec",
    "HeadSpec",
    "LayerSpec",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "MLPSpec",
    "MoESpec",
    "NormKind",
    "NormPlace",
    "NormSpec",
    "ProportionalScaling",
    "QKNormScope",
    "QKNormSpec",
    "QueryGrowthSpec",
    "ResidualMixSpec",
    "RopeScaling",
    "RopeSpec",
    "ValueEmbeddingSpec",
    "YarnScaling",
]
