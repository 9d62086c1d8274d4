"""The body of POST /v1/kv/plan. Its bounds keep the arithmetic short: every group of layers is asked some forty times a row."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kvcache.geometry import KVGeometry, LayerGeometry
from server.errors import invalid_request
from server.protocol.base import WireModel

MAX_HEADS, MAX_HEAD_DIM, MAX_LAYERS, MAX_KINDS, MAX_TOKENS, MAX_BYTES = 256, 4096, 256, 16, 1 << 27, 1 << 50
DTYPES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "fp8_e4m3": 1, "int8": 1}
"""Bytes of one cached number."""
SCALED = ("fp8_e4m3", "int8")
"""Formats with a scale for each token and head, of its key and of its value."""
SCALE_BYTES = 2

Heads = Annotated[int, Field(ge=1, le=MAX_HEADS)]
HeadDim = Annotated[int, Field(ge=1, le=MAX_HEAD_DIM)]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
NumBytes = Annotated[int, Field(ge=0, le=MAX_BYTES)]


class LayerFields(WireModel):
    """Layers that are alike."""

    num_layers: int = Field(ge=1, le=MAX_LAYERS)
    """How many."""
    num_q_heads: Heads
    """Query heads of each."""
    num_kv_heads: Heads
    """Key/value heads of each; they divide the query heads."""
    head_dim: HeadDim
    """Width of a key, and of a value where v_head_dim does not say otherwise."""
    v_head_dim: HeadDim | None = None
    """Width of a value."""
    sliding_window: Tokens | None = None
    """Tokens that a token sees, itself among them."""


class KVPlanBody(WireModel):
    """A geometry, and memory for it."""

    layers: list[LayerFields] = Field(min_length=1, max_length=MAX_KINDS)
    """The attention layers, those that are alike together."""
    dtype: Literal["float64", "float32", "bfloat16", "float16", "fp8_e4m3", "int8"] = "bfloat16"
    """Of cached numbers."""
    block_size: int = Field(default=16, ge=1, le=1024)
    """Tokens in a block."""
    memory_bytes: NumBytes
    """Of one device."""
    weights_bytes: NumBytes = 0
    """What the weights take of it."""
    workspace_bytes: NumBytes = 0
    """What the largest step takes of it."""
    context: Tokens = 8192
    """Tokens of a request."""
    max_num_batched_tokens: Tokens = 2048
    """Tokens that a step computes at most."""
    tensor_parallel: int = Field(default=1, ge=1, le=64)
    """Devices that share the heads."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        num_layers = sum(group.num_layers for group in self.layers)
        if num_layers > MAX_LAYERS:
            raise invalid_request(f"layers: at most {MAX_LAYERS} in all, got {num_layers}", param="layers")
        needed = self.weights_bytes + self.workspace_bytes
        if needed >= self.memory_bytes:
            raise invalid_request(
                f"memory_bytes must be more than weights_bytes and workspace_bytes together ({needed}), got"
                f" {self.memory_bytes}",
                param="memory_bytes",
            )
        for place, group in enumerate(self.layers):
            self._check_heads(f"layers[{place}].num_kv_heads", group)
        return self

    def _check_heads(self, param: str, group: LayerFields) -> None:
        try:
            _heads(group).per_rank(self.tensor_parallel)
        except ValueError as error:
            is_divided = group.num_q_heads % group.num_kv_heads == 0
            raise invalid_request(str(error), param="tensor_parallel" if is_divided else param) from None

    def geometry(self) -> KVGeometry:
        """Of one device."""
        layers = tuple(_heads(group) for group in self.layers for _ in range(group.num_layers))
        scale_bytes = SCALE_BYTES if self.dtype in SCALED else 0
        whole = KVGeometry(layers, DTYPES[self.dtype], self.block_size, scale_bytes)
        return whole.per_rank(self.tensor_parallel)


def _heads(group: LayerFields) -> LayerGeometry:
    return LayerGeometry(
        num_q_heads=group.num_q_heads,
        num_kv_heads=group.num_kv_heads,
        k_head_dim=group.head_dim,
        v_head_dim=group.v_head_dim or group.head_dim,
        sliding_window=group.sliding_window,
    )
