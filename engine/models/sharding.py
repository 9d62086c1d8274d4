"""What one of several devices holds of a model under tensor parallelism. No torch.

Heads and the columns between the two halves of an MLP (of every expert too) are divided; so are the projections' biases
that go with them. Embeddings, head, norms, routers and the biases of output projections are on every device. Key/value
heads are copied where there are fewer of them than devices.
"""

import msgspec

from engine.models.spec import DecoderSpec, LayerSpec, MLPSpec, MoESpec

DEGREES = (1, 2, 4, 8)
"""Numbers of devices that are planned for."""


def per_rank(spec: DecoderSpec, tensor_parallel: int) -> DecoderSpec:
    """The part of a model that one of so many devices holds, as a model of its own.

    Raises:
        ValueError: heads or columns cannot be divided among them.
    """
    return msgspec.structs.replace(spec, layers=tuple(_layer(layer, tensor_parallel) for layer in spec.layers))


def possible_degrees(spec: DecoderSpec) -> list[int]:
    """Those of DEGREES that divide the model."""
    return [degree for degree in DEGREES if _divides(spec, degree)]


def _divides(spec: DecoderSpec, degree: int) -> bool:
    try:
        per_rank(spec, degree)
    except ValueError:
        return False
    return True


def _layer(layer: LayerSpec, degree: int) -> LayerSpec:
    heads = layer.kv_geometry().per_rank(degree)
    mlp: MLPSpec | MoESpec
    if isinstance(layer.mlp, MoESpec):
        shared = layer.mlp.shared and _mlp(layer.mlp.shared, degree)
        mlp = msgspec.structs.replace(layer.mlp, expert=_mlp(layer.mlp.expert, degree), shared=shared)
    else:
        mlp = _mlp(layer.mlp, degree)
    slopes = layer.alibi_slopes and layer.alibi_slopes[: heads.num_q_heads]
    return msgspec.structs.replace(
        layer, num_q_heads=heads.num_q_heads, num_kv_heads=heads.num_kv_heads, alibi_slopes=slopes, mlp=mlp
    )


def _mlp(mlp: MLPSpec, degree: int) -> MLPSpec:
    if mlp.intermediate_size % degree:
        raise ValueError(f"{mlp.intermediate_size} columns cannot be divided among {degree} devices")
    return msgspec.structs.replace(mlp, intermediate_size=mlp.intermediate_size // degree)
