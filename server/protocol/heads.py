"""POST /v1/heads/attention: the body and its bounds, and the answer."""

from typing import Annotated

import msgspec
from pydantic import Field

from server.protocol.base import RequestBody

MAX_TOKENS = 256
MAX_WEIGHTS_BYTES = 16 << 20
"""Of one answer, before it is encoded."""


class AttentionBody(RequestBody):
    """A text whose attention is to be looked at."""

    prompt: Annotated[str, Field(min_length=1)] | Annotated[list[int], Field(min_length=1, fail_fast=True)]
    """A text, or token ids: at most 256 tokens."""
    layers: list[int] | None = Field(default=None, min_length=1, max_length=256)
    """Indices of layers. Unset: all of them."""
    add_special_tokens: bool = True
    """Let the tokenizer add what it adds to a text; token ids stay as they are."""


class LayerAttention(msgspec.Struct):
    """What every head of a layer looks at."""

    layer_idx: int
    num_q_heads: int
    num_kv_heads: int
    """Query head i reads KV head i * num_kv_heads // num_q_heads."""
    weights: str
    """Base64 of little-endian uint16, 65535 for 1: for each query head, for each token, one number for each token up to
    itself."""


class AttentionOut(msgspec.Struct):
    """The attention weights of a text, computed for this answer by the weights that serve."""

    model: str
    num_layers: int
    token_ids: list[int]
    tokens: list[str]
    is_delimiter: Annotated[
        list[bool], msgspec.Meta(description="Per token: it is punctuation, a line end or a special token.")
    ]
    layers: list[LayerAttention]
