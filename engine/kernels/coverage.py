"""What the native CPU kernels can run, read from a spec: known before anything is loaded. No torch."""

import msgspec

from engine.models.spec import Activation, DecoderSpec, LayerSpec, MLPSpec, NormKind, NormSpec, RopeSpec

NATIVE_DTYPES = {"float32": 0, "bfloat16": 1}
"""The formats that the kernels read, as src/common.h numbers them."""

ACTIVATIONS = {Activation.SILU: 0, Activation.GELU_TANH: 1, Activation.RELU: 2}
"""The activations that src/elementwise.c knows."""

KNOWN_FIELDS: dict[type[msgspec.Struct], str] = {
    DecoderSpec: "architecture vocab_size hidden_size max_position_embeddings layers norm head embedding",
    LayerSpec: "num_q_heads num_kv_heads k_head_dim v_head_dim softmax_scale sliding_window mlp rope has_qkv_bias"
    " has_o_bias",
    NormSpec: "kind eps",
    MLPSpec: "intermediate_size activation is_gated has_bias",
    RopeSpec: "theta rotary_dim attention_factor scaling",
}
"""What the native layers know of a spec; embedding, head and the table of angles are none of their business. A model
that sets anything else runs layer by layer."""


def can_fuse(spec: DecoderSpec) -> bool:
    """Whether all layers of this model run in one native call.

    That is: RMSNorm, dense MLPs with one native activation, one rope in all layers, nothing that they do not know.
    """
    first = spec.layers[0]
    structs: list[msgspec.Struct] = [spec, spec.norm, *spec.layers, *(layer.mlp for layer in spec.layers)]
    structs += [layer.rope for layer in spec.layers if layer.rope]
    return (
        all(_sets_known_fields_only(struct) for struct in structs)
        and spec.norm.kind is NormKind.RMS
        and all(layer.rope == first.rope for layer in spec.layers)
        and len({_kind_of_mlp(layer) for layer in spec.layers}) == 1
        and dense_mlp(first).activation in ACTIVATIONS
    )


def dense_mlp(layer: LayerSpec) -> MLPSpec:
    """The MLP of a layer without experts.

    Raises:
        TypeError: it has experts.
    """
    if not isinstance(layer.mlp, MLPSpec):
        raise TypeError("native layers have no experts")
    return layer.mlp


def scratch_widths(spec: DecoderSpec) -> tuple[int, int, int, int, int]:
    """Columns of what the native layers keep beside the residual stream: normed, qkv, attended, up and activated."""
    return (
        spec.hidden_size,
        max(layer.q_width + layer.k_width + layer.v_width for layer in spec.layers),
        max(layer.o_width for layer in spec.layers),
        max(dense_mlp(layer).up_width for layer in spec.layers),
        max(dense_mlp(layer).intermediate_size for layer in spec.layers),
    )


def _kind_of_mlp(layer: LayerSpec) -> tuple[Activation, bool]:
    return dense_mlp(layer).activation, dense_mlp(layer).is_gated


def _sets_known_fields_only(struct: msgspec.Struct) -> bool:
    known = next((fields for kind, fields in KNOWN_FIELDS.items() if isinstance(struct, kind)), "").split()
    return all(
        field.name in known or (field.required is False and getattr(struct, field.name) == field.default)
        for field in msgspec.structs.fields(struct)
    )
