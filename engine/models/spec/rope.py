"""Rotary position embedding, as data; engine/layers/rope_frequencies.py has the formulas."""

import msgspec


class LinearScaling(msgspec.Struct, frozen=True, tag="linear"):
    """Positions are divided by `factor` (position interpolation, Chen et al. 2023)."""

    factor: float


class DynamicScaling(msgspec.Struct, frozen=True, tag="dynamic"):
    """A larger base for contexts beyond the trained one ("dynamic NTK"): computed once, for max_model_len."""

    factor: float
    original_max_position_embeddings: int


class Llama3Scaling(msgspec.Struct, frozen=True, tag="llama3"):
    """Llama 3.1's stretching of rope: long wavelengths by `factor`, short ones not, a ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


class YarnScaling(msgspec.Struct, frozen=True, tag="yarn"):
    """YaRN (Peng et al. 2023, section 3.2): a ramp over the number of turns in the trained context."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    is_truncated: bool = True
    """The ramp begins and ends at whole dimensions."""


class LongRopeScaling(msgspec.Struct, frozen=True, tag="longrope"):
    """LongRoPE (Ding et al. 2024): a divisor for every pair, one list within the trained context, one beyond it.

    Which list is used follows from max_model_len, once, so that a token's angles never depend on its neighbours.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int


class ProportionalScaling(msgspec.Struct, frozen=True, tag="proportional"):
    """The first `proportion` of the pairs turn at the frequencies of a whole head, the others not at all (Gemma 4)."""

    proportion: float
    factor: float = 1.0


RopeScaling = LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling | LongRopeScaling | ProportionalScaling


class RopeSpec(msgspec.Struct, frozen=True):
    """Rotary position embedding (Su et al. 2021, section 3.2).

    Attributes:
        theta: base of the frequencies.
        rotary_dim: dimensions of a head that turn; the others stay as they are.
        is_interleaved: pairs are (x[2i], x[2i + 1]), as in the paper; else (x[i], x[i + rotary_dim / 2]).
        is_reversed: the pairs turn the other way.
        attention_factor: multiplies cos and sin (YaRN's and LongRoPE's temperature).
        scaling: how the frequencies differ from theta^(-2i / rotary_dim).
    """

    theta: float
    rotary_dim: int
    is_interleaved: bool = False
    is_reversed: bool = False
    attention_factor: float = 1.0
    scaling: RopeScaling | None = None
