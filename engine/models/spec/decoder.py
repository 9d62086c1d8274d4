"""A whole decoder: embedding, layers, head."""

import math

import msgspec

from engine.models.spec.layer import LayerSpec, NormPlace, norm_shapes
from engine.models.spec.mlp import MoESpec
from engine.models.spec.norm import NormSpec
from kvcache.geometry import KVGeometry


class EmbeddingSpec(msgspec.Struct, frozen=True):
    """Token ids to the first hidden states.

    Attributes:
        width: columns of the table where they are not the model's: a projection widens them.
        multiplier: of the token embeddings.
        has_positions: a learned embedding of the position is added (max_position_embeddings rows).
        norm: of the sum.
        smear_channels: the previous token's embedding is added, through a gate that looks at this many columns of the
            token's own (nanochat); 0: it is not.
    """

    width: int | None = None
    multiplier: float = 1.0
    has_positions: bool = False
    norm: NormSpec | None = None
    smear_channels: int = 0


class HeadSpec(msgspec.Struct, frozen=True):
    """The last hidden states to logits.

    Attributes:
        is_tied: the embedding table is the output projection.
        has_bias: of the output projection.
        norm: before it.
        multiplier: of the logits.
        softcap: logits become softcap * tanh(logit / softcap).
    """

    is_tied: bool
    norm: NormSpec | None
    has_bias: bool = False
    multiplier: float = 1.0
    softcap: float | None = None


class ResidualMixSpec(msgspec.Struct, frozen=True):
    """Learned scalars on the residual stream (nanochat): before layer i, x = residual[i] * x + first[i] * x_0.

    Attributes:
        backout_layer: what the stream holds after this layer is taken off again, times a learned scalar, at the end.
    """

    backout_layer: int


class DecoderSpec(msgspec.Struct, frozen=True):
    """A decoder-only transformer.

    Attributes:
        architecture: its name in config.json.
        norm: of every layer.
        norm_place: where those stand.
        is_parallel: attention and MLP both read the layer's input, and both are added to it.
        has_shared_norm: where parallel, they also read it through the same norm.
        residual_multiplier: of what a sublayer adds.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    max_position_embeddings: int
    layers: tuple[LayerSpec, ...]
    norm: NormSpec
    head: HeadSpec
    embedding: EmbeddingSpec = EmbeddingSpec()
    norm_place: NormPlace = NormPlace.PRE
    is_parallel: bool = False
    has_shared_norm: bool = False
    residual_multiplier: float = 1.0
    residual_mix: ResidualMixSpec | None = None

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    def kv_geometry(self, dtype_bytes: int, block_size: int, scale_bytes: int = 0) -> KVGeometry:
        """The KV cache of this model for numbers of `dtype_bytes` bytes in blocks of `block_size` tokens.

        Args:
            dtype_bytes: bytes of a number.
            block_size: tokens in a block.
            scale_bytes: bytes of the scale of a head's key, and of its value, where the cache is 8 bits wide.
        """
        layers = tuple(layer.kv_geometry() for layer in self.layers)
        return KVGeometry(layers, dtype_bytes, block_size, scale_bytes)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter the decoder holds, by our name, with its shape; tied embeddings are listed once.

        Projections that are computed together are one parameter: `qkv` is query, key and value rows stacked in that
        order, `gate_up` gate then up. Linear weights are [out, in], those of experts [num_experts, out, in].
        """
        shapes = self._embedding_shapes()
        for layer_idx in range(self.num_layers):
            shapes |= {f"layers.{layer_idx}.{name}": shape for name, shape in self._layer_shapes(layer_idx).items()}
        if self.residual_mix:
            shapes |= {"residual_scales": (self.num_layers,), "first_scales": (self.num_layers,), "backout_scale": (1,)}
        return shapes | self._head_shapes()

    def num_parameters(self) -> int:
        """Numbers in all parameters together."""
        return sum(map(math.prod, self.parameter_shapes().values()))

    def num_active_parameters(self) -> int:
        """Numbers that one token passes: of the experts only those that it is sent to."""
        sparse = [layer.mlp for layer in self.layers if isinstance(layer.mlp, MoESpec)]
        idle = sum(
            (mlp.num_experts - mlp.num_experts_per_token)
            * sum(map(math.prod, mlp.expert.shapes(self.hidden_size).values()))
            for mlp in sparse
        )
        return self.num_parameters() - idle

    def _embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        embedding, hidden = self.embedding, self.hidden_size
        width = embedding.width or hidden
        shapes: dict[str, tuple[int, ...]] = {"embed.weight": (self.vocab_size, width)}
        if embedding.width:
            shapes["embed_proj.weight"] = (hidden, width)
        if embedding.has_positions:
            shapes["position_embed.weight"] = (self.max_position_embeddings, hidden)
        if embedding.norm:
            shapes |= embedding.norm.shapes("embed_norm", hidden)
        if embedding.smear_channels:
            shapes |= {"smear_gate.weight": (1, embedding.smear_channels), "smear_scale": (1,)}
        return shapes

    def _layer_shapes(self, layer_idx: int) -> dict[str, tuple[int, ...]]:
        shapes = self.layers[layer_idx].shapes(self.hidden_size, self.vocab_size)
        shapes |= norm_shapes(self.norm, self.norm_place, "attention", self.hidden_size)
        if not self.has_shared_norm:
            shapes |= norm_shapes(self.norm, self.norm_place, "mlp", self.hidden_size)
        return shapes

    def _head_shapes(self) -> dict[str, tuple[int, ...]]:
        head, width = self.head, self.embedding.width or self.hidden_size
        shapes = head.norm.shapes("norm", self.hidden_size) if head.norm else {}
        if self.embedding.width:
            shapes["head_proj.weight"] = (width, self.hidden_size)
        if not head.is_tied:
            shapes["lm_head.weight"] = (self.vocab_size, width)
        if head.has_bias:
            shapes["lm_head.bias"] = (self.vocab_size,)
        return shapes
