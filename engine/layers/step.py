"""What every layer of a step shares."""

from typing import NamedTuple

from torch import Tensor

from engine.attention.base import AttentionBackend
from engine.models.spec import RopeSpec


class Step(NamedTuple):
    """One step of the model.

    Attributes:
        input_ids: [num_tokens] int64.
        positions: [num_tokens] int64.
        angles: cos and sin, each [num_tokens, rotary_dim / 2], of every rope of the model.
        attention: has planned this step.
    """

    input_ids: Tensor
    positions: Tensor
    angles: dict[RopeSpec, tuple[Tensor, Tensor]]
    attention: AttentionBackend
