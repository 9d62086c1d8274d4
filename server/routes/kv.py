"""GET /v1/kv: what the heads cost. Geometry, blocks, bytes, the memory ledger, and the same cache with other head counts."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from engine.client import EngineState
from engine.dtypes import EIGHT_BIT, KV_FORMATS
from engine.info import EngineInfo, MemoryLedger
from kvcache.geometry import KVGeometry
from server.metrics import KVUsage, kv_usage
from server.served_model import ServedModel, ServerState

router = APIRouter(tags=["kv"])


class LayerHeads(BaseModel):
    """The heads of one attention layer."""

    layer_idx: int
    num_q_heads: int
    num_kv_heads: int
    k_head_dim: int
    v_head_dim: int
    sliding_window: int | None = Field(description="Tokens that a token sees; null: all.")


class Group(BaseModel):
    """Layers with one block table."""

    num_layers: int
    sliding_window: int | None = Field(description="Blocks that it has passed are given back; null: they stay.")


class Geometry(BaseModel):
    """The shape of the KV cache."""

    num_layers: int
    num_q_heads: int = Field(description="Of the first layer, like num_kv_heads and head_dim.")
    num_kv_heads: int
    head_dim: int
    dtype: str = Field(description="Of activations, and of weights that are not quantized.")
    quantization: str = Field(description="Of the weights: none, or int8.")
    kv_cache_dtype: str = Field(
        description="Of cached keys and values; the 8-bit formats have a scale for each in a head."
    )
    block_size: int
    bytes_per_token: int = Field(description="Of a new token, in every layer.")
    bytes_per_old_token: int = Field(description="Of a token that every window has passed.")
    bytes_per_block: int
    groups: list[Group] = Field(description="A block holds block_size tokens of one of them.")
    layers: list[LayerHeads] | None = Field(description="Every layer, where layers or key and value widths differ.")


class Blocks(BaseModel):
    """Blocks by what they hold."""

    total: int
    free: int
    used: int = Field(description="A request refers to them.")
    cached: int = Field(description="Only the prefix cache holds them: evictable.")


class CacheBytes(BaseModel):
    """The bytes of those blocks."""

    total: int
    used: int
    filled: int = Field(description="Slots of used blocks that hold a token.")
    cached: int
    wasted: int = Field(description="Slots of used blocks that hold none.")


class Capacity(BaseModel):
    """What fits in the KV cache."""

    tokens: int = Field(description="Where layers have windows: in requests of max_model_len.")
    requests_of_max_model_len: int


class Ledger(BaseModel):
    """Where the device's bytes are, as the engine measured it when it was ready."""

    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int
    graphs_bytes: int
    framework_bytes: int
    other_bytes: int
    free_bytes: int
    unaccounted_bytes: int
    total_bytes: int


class WhatIf(BaseModel):
    """The same KV cache memory with another number of KV heads."""

    label: Literal["actual", "what-if"]
    attention_type: str
    num_kv_heads: int
    bytes_per_token: int
    ratio: float = Field(description="bytes_per_token over the actual model's.")
    tokens: int
    requests_of_max_model_len: int


class WhatIfFormat(BaseModel):
    """The same KV cache memory with keys and values in another number format."""

    label: Literal["actual", "what-if"]
    kv_cache_dtype: str
    bytes_per_token: int = Field(description="Scales included.")
    ratio: float = Field(description="bytes_per_token over the actual format's.")
    tokens: int
    requests_of_max_model_len: int


class ModelState(BaseModel):
    """A model that was never loaded so far."""

    model: str
    state: EngineState
    failure: str | None = Field(description="Why it cannot be loaded.")


class ModelKV(ModelState):
    """The KV cache of a loaded model."""

    attention_type: str
    max_model_len: int
    geometry: Geometry
    blocks: Blocks
    bytes: CacheBytes
    capacity: Capacity
    ledger: Ledger
    kernels: str = Field(description="That the layers run on; the CPU's with their level of instructions.")
    attention_backend: str = Field(description="Two where prefill and decode have each their own.")
    attention_objections: dict[str, list[str]] = Field(description="Backends that were passed over, and why.")
    startup_s: dict[str, float] = Field(description="Phase of the start -> seconds.")
    what_if: list[WhatIf] = Field(description="Most KV heads first.")
    what_if_formats: list[WhatIfFormat] = Field(description="The model's own format, then those of 8 bits.")


class KVReport(BaseModel):
    """Every model of this server."""

    models: list[ModelKV | ModelState]


@router.get("/v1/kv")
async def get_kv(request: Request) -> KVReport:
    """What the KV cache of every model costs and holds now."""
    state: ServerState = request.app.state.server
    return KVReport(models=[_report(model) for model in state.models.values()])


def _report(model: ServedModel) -> ModelKV | ModelState:
    client = model.client
    info = client.info
    if info is None:
        return ModelState(model=model.name, state=client.state, failure=client.failure)
    usage = kv_usage(info, client.stats)
    return ModelKV(
        model=model.name,
        state=client.state,
        failure=client.failure,
        attention_type=info.geometry.attention_type,
        max_model_len=info.max_model_len,
        geometry=_geometry(info),
        blocks=_blocks(info, usage),
        bytes=_bytes(usage),
        capacity=_capacity(info.geometry, usage.total_bytes, info.max_model_len),
        ledger=_ledger(info.ledger),
        kernels=info.kernels,
        attention_backend=info.attention_backend,
        attention_objections=info.attention_objections,
        startup_s=info.startup_s,
        what_if=_what_if(info, usage.total_bytes),
        what_if_formats=[_format_row(name, info, usage.total_bytes) for name in (info.dtype, *EIGHT_BIT)],
    )


def _geometry(info: EngineInfo) -> Geometry:
    geometry = info.geometry
    first = geometry.layers[0]
    is_plain = len(set(geometry.layers)) == 1 and first.k_head_dim == first.v_head_dim
    return Geometry(
        num_layers=len(geometry.layers),
        num_q_heads=first.num_q_heads,
        num_kv_heads=first.num_kv_heads,
        head_dim=first.k_head_dim,
        dtype=info.dtype,
        quantization=info.quantization,
        kv_cache_dtype=info.kv_cache_dtype,
        block_size=geometry.block_size,
        bytes_per_token=geometry.bytes_per_token,
        bytes_per_old_token=geometry.bytes_per_old_token,
        bytes_per_block=geometry.bytes_per_block,
        groups=[
            Group(num_layers=len(group.layer_indices), sliding_window=group.sliding_window) for group in geometry.groups
        ],
        layers=None if is_plain else _layers(geometry),
    )


def _layers(geometry: KVGeometry) -> list[LayerHeads]:
    return [
        LayerHeads(
            layer_idx=layer_idx,
            num_q_heads=layer.num_q_heads,
            num_kv_heads=layer.num_kv_heads,
            k_head_dim=layer.k_head_dim,
            v_head_dim=layer.v_head_dim,
            sliding_window=layer.sliding_window,
        )
        for layer_idx, layer in enumerate(geometry.layers)
    ]


def _blocks(info: EngineInfo, usage: KVUsage) -> Blocks:
    return Blocks(
        total=info.num_blocks,
        free=usage.num_free_blocks,
        used=usage.num_used_blocks,
        cached=usage.num_cached_blocks,
    )


def _bytes(usage: KVUsage) -> CacheBytes:
    return CacheBytes(
        total=usage.total_bytes,
        used=usage.used_bytes,
        filled=usage.filled_bytes,
        cached=usage.cached_bytes,
        wasted=usage.wasted_bytes,
    )


def _capacity(geometry: KVGeometry, memory_bytes: int, max_model_len: int) -> Capacity:
    return Capacity(
        tokens=geometry.num_tokens_in(memory_bytes, max_model_len),
        requests_of_max_model_len=geometry.num_requests_in(memory_bytes, max_model_len),
    )


def _ledger(ledger: MemoryLedger) -> Ledger:
    return Ledger(
        weights_bytes=ledger.weights_bytes,
        kv_cache_bytes=ledger.kv_cache_bytes,
        workspace_bytes=ledger.workspace_bytes,
        graphs_bytes=ledger.graphs_bytes,
        framework_bytes=ledger.framework_bytes,
        other_bytes=ledger.other_bytes,
        free_bytes=ledger.free_bytes,
        unaccounted_bytes=ledger.unaccounted_bytes,
        total_bytes=ledger.total_bytes,
    )


def _what_if(info: EngineInfo, memory_bytes: int) -> list[WhatIf]:
    """One row per number of KV heads. The model's own row is among them even where its layers differ."""
    actual = info.geometry
    variants = actual.what_if()
    if actual not in variants:
        variants.insert(0, actual)
    return [_what_if_row(variant, info, memory_bytes) for variant in variants]


def _what_if_row(variant: KVGeometry, info: EngineInfo, memory_bytes: int) -> WhatIf:
    capacity = _capacity(variant, memory_bytes, info.max_model_len)
    return WhatIf(
        label="actual" if variant == info.geometry else "what-if",
        attention_type=variant.attention_type,
        num_kv_heads=variant.layers[0].num_kv_heads,
        bytes_per_token=variant.bytes_per_token,
        ratio=variant.bytes_per_token / info.geometry.bytes_per_token,
        tokens=capacity.tokens,
        requests_of_max_model_len=capacity.requests_of_max_model_len,
    )


def _format_row(name: str, info: EngineInfo, memory_bytes: int) -> WhatIfFormat:
    variant = info.geometry.with_format(*KV_FORMATS[name])
    capacity = _capacity(variant, memory_bytes, info.max_model_len)
    return WhatIfFormat(
        label="actual" if name == info.kv_cache_dtype else "what-if",
        kv_cache_dtype=name,
        bytes_per_token=variant.bytes_per_token,
        ratio=variant.bytes_per_token / info.geometry.bytes_per_token,
        tokens=capacity.tokens,
        requests_of_max_model_len=capacity.requests_of_max_model_len,
    )
