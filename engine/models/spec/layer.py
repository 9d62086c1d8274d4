"""One layer: its attention, its feed-forward part and the norms around them, as data."""

import enum

import msgspec

from engine.models.spec.attention import QKNormSpec, QueryGrowthSpec, ValueEmbeddingSpec
from engine.models.spec.mlp import MLPSpec, MoESpec, linear_shapes
from engine.models.spec.norm import NormSpec
from engine.models.spec.rope import RopeSpec
from kvcache.geometry import LayerGeometry


class NormPlace(enum.StrEnum):
    """Where the norms of a sublayer f stand. The names are those of the papers that compare them."""

    PRE = "pre"
    """x + f(norm(x)) (GPT-2, Llama)."""
    POST = "post"
    """norm(x + f(x)) (Vaswani et al. 2017, section 3.1)."""
    OUTPUT = "output"
    """x + norm(f(x)) (OLMo 2, section 3.2)."""
    SANDWICH = "sandwich"
    """x + norm(f(norm(x))) (Ding et al. 2021)."""

    @property
    def is_before(self) -> bool:
        """A norm of the sublayer's input."""
        return self in (NormPlace.PRE, NormPlace.SANDWICH)

    @property
    def is_on_output(self) -> bool:
        """A norm of the sublayer's output, before it is added."""
        return self in (NormPlace.OUTPUT, NormPlace.SANDWICH)


class LayerSpec(msgspec.Struct, frozen=True):
    """One layer of a decoder.

    Attributes:
        num_q_heads: query heads.
        num_kv_heads: key/value heads; they divide the query heads into groups.
        k_head_dim: width of a query and of a key.
        v_head_dim: width of a value.
        softmax_scale: multiplies every score.
        mlp: the feed-forward part.
        sliding_window: each token sees itself and this many tokens less one before it; None: all.
        rope: None: this layer turns nothing.
        alibi_slopes: a query head each: a key that is d tokens away gets slope * -d added to its scaled score (Press et
            al. 2021, section 3).
        softcap: scaled scores become softcap * tanh(score / softcap).
        has_sinks: a learned score a query head joins each softmax and takes its share of the weight to nowhere.
        qk_norm: queries and keys are normalised.
        query_growth: queries are multiplied by more the further on they stand.
        has_qkv_bias: of query, key and value projection.
        has_o_bias: of the output projection.
        qkv_clip: queries, keys and values are clamped to +- this.
        value_embedding: what is added to the values.
    """

    num_q_heads: int
    num_kv_heads: int
    k_head_dim: int
    v_head_dim: int
    softmax_scale: float
    mlp: MLPSpec | MoESpec
    sliding_window: int | None = None
    rope: RopeSpec | None = None
    alibi_slopes: tuple[float, ...] | None = None
    softcap: float | None = None
    has_sinks: bool = False
    qk_norm: QKNormSpec | None = None
    query_growth: QueryGrowthSpec | None = None
    has_qkv_bias: bool = False
    has_o_bias: bool = False
    qkv_clip: float | None = None
    value_embedding: ValueEmbeddingSpec | None = None

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

    def kv_geometry(self) -> LayerGeometry:
        """The heads that the KV cache keeps."""
        return LayerGeometry(self.num_q_heads, self.num_kv_heads, self.k_head_dim, self.v_head_dim, self.sliding_window)

    def shapes(self, hidden_size: int, vocab_size: int) -> dict[str, tuple[int, ...]]:
        """The parameters of attention and feed-forward part, without the norms around them."""
        qkv_width = self.q_width + self.k_width + self.v_width
        shapes = {
            **linear_shapes("qkv", qkv_width, hidden_size, self.has_qkv_bias),
            **linear_shapes("o", hidden_size, self.o_width, self.has_o_bias),
            **self.mlp.shapes(hidden_size),
        }
        if self.qk_norm:
            shapes |= self.qk_norm.shapes("q_norm", self.num_q_heads, self.k_head_dim)
            shapes |= self.qk_norm.shapes("k_norm", self.num_kv_heads, self.k_head_dim)
        if self.has_sinks:
            shapes["sinks"] = (self.num_q_heads,)
        if self.value_embedding:
            shapes["value_embed.weight"] = (vocab_size, self.v_width)
            shapes["value_gate.weight"] = (self.num_kv_heads, self.value_embedding.gate_channels)
        return shapes


def norm_shapes(norm: NormSpec, place: NormPlace, name: str, hidden_size: int) -> dict[str, tuple[int, ...]]:
    """The parameters of the norms around the sublayer `name` (attention or mlp): `{name}_norm`, `{name}_output_norm`."""
    shapes: dict[str, tuple[int, ...]] = {}
    if place.is_before or place is NormPlace.POST:
        shapes |= norm.shapes(f"{name}_norm", hidden_size)
    if place.is_on_output:
        shapes |= norm.shapes(f"{name}_output_norm", hidden_size)
    return shapes
