"""POST /v1/kv/plan: what any geometry costs, and what fits. The arithmetic is that of `headcount plan`."""

from typing import Literal

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, Field

from kvcache.geometry import KVGeometry
from server.kv_plan import fit, what_if
from server.protocol.kv_plan import KVPlanBody

router = APIRouter(tags=["kv"])


class KVPlanRow(BaseModel):
    """One number of KV heads, on one device."""

    label: Literal["actual", "what-if"]
    attention_type: str
    num_kv_heads: int = Field(description="Of the first layer.")
    bytes_per_token: int = Field(description="Of a new token, in every layer.")
    bytes_per_old_token: int = Field(description="Of a token that every window has passed.")
    bytes_per_block: int
    bytes_per_request: int = Field(description="Of `context` tokens, in whole blocks.")
    num_blocks: int = Field(description="That fit.")
    kv_cache_bytes: int
    num_tokens: int = Field(description="That fit, as requests of `context` tokens.")
    num_requests: int = Field(description="Of `context` tokens at the same time.")
    longest_context: int = Field(description="Tokens of the longest single request that fits.")


class KVPlan(BaseModel):
    """What a KV cache costs, and what fits in the memory beside weights and workspace."""

    kv_memory_bytes: int
    fits: bool = Field(description="One request of `context` tokens does.")
    rows: list[KVPlanRow] = Field(description="Most KV heads first, as many as the query heads allow.")


@router.post("/v1/kv/plan")
async def plan_kv(body: KVPlanBody) -> KVPlan:
    """What a geometry of your own costs, and what fits in a piece of memory: no model is needed."""
    memory_bytes = body.memory_bytes - body.weights_bytes - body.workspace_bytes
    rows = [_row(label, geometry, memory_bytes, body) for label, geometry in what_if(body.geometry())]
    actual = next(row for row in rows if row.label == "actual")
    return KVPlan(kv_memory_bytes=memory_bytes, fits=actual.longest_context >= body.context, rows=rows)


def _row(label: Literal["actual", "what-if"], geometry: KVGeometry, memory_bytes: int, body: KVPlanBody) -> KVPlanRow:
    found = fit(geometry, memory_bytes, body.context, body.max_num_batched_tokens)
    return KVPlanRow(
        label=label,
        attention_type=geometry.attention_type,
        num_kv_heads=geometry.layers[0].num_kv_heads,
        bytes_per_token=geometry.bytes_per_token,
        bytes_per_old_token=geometry.bytes_per_old_token,
        bytes_per_block=geometry.bytes_per_block,
        bytes_per_request=geometry.bytes_per_request(body.context),
        **msgspec.structs.asdict(found),
    )
