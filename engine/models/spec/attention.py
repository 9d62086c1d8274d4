"""What attention does besides scores and sums, as data."""

import enum

import msgspec

from engine.models.spec.norm import NormSpec


class QKNormScope(enum.StrEnum):
    """What a norm of queries and keys runs over."""

    HEAD = "head"
    """Each head by itself; all heads share one weight."""
    OWN_HEAD = "own_head"
    """Each head by itself, with a weight of its own."""
    WIDTH = "width"
    """All heads of a token together."""


class QKNormSpec(msgspec.Struct, frozen=True):
    """Queries and keys are normalised (Henry et al. 2020).

    Attributes:
        norm: of which kind.
        scope: over what.
        is_after_rope: the rotation comes first.
        multiplier: of the result.
    """

    norm: NormSpec
    scope: QKNormScope = QKNormScope.HEAD
    is_after_rope: bool = False
    multiplier: float = 1.0

    def shapes(self, name: str, num_heads: int, head_dim: int) -> dict[str, tuple[int, ...]]:
        """The parameters of the norm called `name` over this many heads."""
        match self.scope:
            case QKNormScope.HEAD:
                return self.norm.shapes(name, head_dim)
            case QKNormScope.OWN_HEAD:
                return self.norm.shapes(name, num_heads, head_dim)
            case QKNormScope.WIDTH:
                return self.norm.shapes(name, num_heads * head_dim)


class QueryGrowthSpec(msgspec.Struct, frozen=True):
    """Queries grow with their position, so that a softmax over more keys stays as sharp (Nakanishi 2025; Ministral 3).

    A query at position p is multiplied by 1 + beta * ln(1 + floor(p / period)).
    """

    beta: float
    period: int


class ValueEmbeddingSpec(msgspec.Struct, frozen=True):
    """An embedding of the token itself is added to its values (nanochat).

    v += gate_multiplier * sigmoid(gate(x[:gate_channels])) * value_embed(token), one gate a KV head.
    """

    gate_channels: int
    gate_multiplier: float
