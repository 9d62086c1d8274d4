"""DecoderSpec: everything that tells one decoder-only model from another, as data. No torch.

The decoder reads it and runs; the KV geometry, the parameter shapes and the plan are computed from it. MHA, GQA and
MQA are numbers in a LayerSpec, not code.
"""

import enum

import msgspec

from kvcache.geometry import KVGeometry, LayerGeometry


class NormKind(enum.StrEnum):
    """How activations are normalised."""

    RMS = "rms"
    """x / rms(x) * weight (Zhang and Sennrich 2019)."""
    LAYER = "layer"
    """(x - mean) / std * weight + bias (Ba et al. 2016)."""


class NormSpec(msgspec.Struct, frozen=True):
    """Every norm of the model."""

    kind: NormKind
    eps: float


class Llama3Scaling(msgspec.Struct, frozen=True):
    """Llama 3.1's stretching of rope: long wavelengths by `factor`, short ones not, a ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


class RopeSpec(msgspec.Struct, frozen=True):
    """Rotary position embedding, half-split pairing (Su et al. 2021, section 3.2)."""

    theta: float
    rotary_dim: int
    linear_factor: float = 1.0
    """Positions are divided by it (position interpolation, Chen et al. 2023)."""
    llama3: Llama3Scaling | None = None


class LayerSpec(msgspec.Struct, frozen=True):
    """The attention of one layer."""

    num_q_heads: int
    num_kv_heads: int
    k_head_dim: int
    v_head_dim: int
    softmax_scale: float
    sliding_window: int | None = None
    """Each token sees itself and this many tokens less one before it; None: all."""

    @property
    def q_width(self) -> int:
        """Columns of the query projection."""
        return self.num_q_heads * self.k_head_dim

    @property
    def k_width(self) -> int:
        """Columns of the key projection."""
        return self.num_kv_heads * self.k_head_dim

    @property
    def v_width(self) -> int:
        """Columns of the value projection."""
        return self.num_kv_heads * self.v_head_dim

    @property
    def o_width(self) -> int:
        """Columns that go into the output projection."""
        return self.num_q_heads * self.v_head_dim


class Activation(enum.StrEnum):
    """The nonlinearity of the feed-forward part."""

    SILU = "silu"
    GELU = "gelu"
    """Exact, through erf."""
    GELU_TANH = "gelu_tanh"
    RELU = "relu"


class MLPSpec(msgspec.Struct, frozen=True):
    """The feed-forward part: down(act(gate(x)) * up(x)) where gated, else down(act(up(x)))."""

    intermediate_size: int
    activation: Activation
    is_gated: bool
    has_bias: bool


class DecoderSpec(msgspec.Struct, frozen=True):
    """A decoder-only transformer with its norms before attention and MLP."""

    architecture: str
    vocab_size: int
    hidden_size: int
    max_position_embeddings: int
    layers: tuple[LayerSpec, ...]
    norm: NormSpec
    mlp: MLPSpec
    rope: RopeSpec | None
    """None: positions are learned, added to the token embedding (max_position_embeddings rows)."""
    has_qkv_bias: bool
    has_o_bias: bool
    has_tied_embeddings: bool

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    def kv_geometry(self, dtype_bytes: int, block_size: int) -> KVGeometry:
        """The KV cache of this model for numbers of `dtype_bytes` bytes in blocks of `block_size` tokens."""
        layers = tuple(LayerGeometry(s.num_q_heads, s.num_kv_heads, s.k_head_dim, s.v_head_dim) for s in self.layers)
        return KVGeometry(layers=layers, dtype_bytes=dtype_bytes, block_size=block_size)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter the decoder holds, by our name, with its shape; tied embeddings are listed once.

        Projections that are computed together are one parameter: `qkv` is query, key and value rows stacked in that
        order, `gate_up` gate then up. Linear weights are [out, in].
        """
        shapes: dict[str, tuple[int, ...]] = {"embed.weight": (self.vocab_size, self.hidden_size)}
        if self.rope is None:
            shapes["position_embed.weight"] = (self.max_position_embeddings, self.hidden_size)
        for layer_idx in range(self.num_layers):
            shapes |= {f"layers.{layer_idx}.{name}": shape for name, shape in self._layer_shapes(layer_idx).items()}
        shapes |= self._norm_shapes("norm")
        if not self.has_tied_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, self.hidden_size)
        return shapes

    def num_parameters(self) -> int:
        """Numbers in all parameters together."""
        total = 0
        for shape in self.parameter_shapes().values():
            size = 1
            for dim in shape:
                size *= dim
            total += size
        return total

    def _layer_shapes(self, layer_idx: int) -> dict[str, tuple[int, ...]]:
        layer, mlp, hidden = self.layers[layer_idx], self.mlp, self.hidden_size
        up_name, up_width = ("gate_up", 2 * mlp.intermediate_size) if mlp.is_gated else ("up", mlp.intermediate_size)
        return {
            **self._norm_shapes("attention_norm"),
            **_linear_shapes("qkv", layer.q_width + layer.k_width + layer.v_width, hidden, self.has_qkv_bias),
            **_linear_shapes("o", hidden, layer.o_width, self.has_o_bias),
            **self._norm_shapes("mlp_norm"),
            **_linear_shapes(up_name, up_width, hidden, mlp.has_bias),
            **_linear_shapes("down", hidden, mlp.intermediate_size, mlp.has_bias),
        }

    def _norm_shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (self.hidden_size,)}
        if self.norm.kind is NormKind.LAYER:
            shapes[f"{name}.bias"] = (self.hidden_size,)
        return shapes


def _linear_shapes(name: str, out_width: int, in_width: int, has_bias: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (out_width, in_width)}
    if has_bias:
        shapes[f"{name}.bias"] = (out_width,)
    return shapes
