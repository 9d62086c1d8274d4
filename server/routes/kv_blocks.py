"""GET /v1/kv/blocks: what every block of a KV pool holds."""

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from engine.info import EngineInfo
from kvcache.block_map import BlockSnapshot, build_block_map
from server.auth import is_admin
from server.errors import invalid_request
from server.openapi import BLOCK_MAP
from server.protocol.kv_blocks import BlockMapOut, BlocksQuery
from server.sampling import ready_info
from server.served_model import ServedModel, ServerState

router = APIRouter(tags=["kv"])


@router.get("/v1/kv/blocks", responses=BLOCK_MAP)
async def get_blocks(query: Annotated[BlocksQuery, Query()], http_request: HTTPRequest) -> Response:
    """The block map of a model: per block its state, its owners and its filled slots, between two steps.

    Where an admin key is set, owners are told to those who have it.
    """
    model = _find(query.model, http_request.app.state.server)
    info = ready_info(model)
    if query.offset >= info.num_blocks:
        message = f"offset must be 0 to {info.num_blocks - 1}, the pool's last block, got {query.offset}"
        raise invalid_request(message, param="offset")
    snapshot = await model.client.block_snapshot()
    # In a thread: tokens of other requests are not to wait for it.
    body = await asyncio.to_thread(_encode, snapshot, model.name, info, query, is_admin(http_request))
    return Response(body, media_type="application/json")


def _find(name: str | None, state: ServerState) -> ServedModel:
    """The model of that name, or the only one.

    Raises:
        APIError: there is none (404), or there are several and no name (400).
    """
    if name is None and len(state.models) == 1:
        return next(iter(state.models.values()))
    if name is None:
        message = f"model is required: this server has several; give one of {', '.join(sorted(state.models))}"
        raise invalid_request(message, code="missing_field", param="model")
    return state.find(name)


def _encode(snapshot: BlockSnapshot, model_name: str, info: EngineInfo, query: BlocksQuery, has_owners: bool) -> bytes:
    block_map = build_block_map(snapshot)
    stop = min(snapshot.num_blocks, query.offset + (query.limit or snapshot.num_blocks))
    wanted = slice(query.offset, stop)
    first_owner = int(block_map.ref_counts[: query.offset].sum())
    num_owners = int(block_map.ref_counts[wanted].sum())
    answer = BlockMapOut(
        model=model_name,
        num_blocks=snapshot.num_blocks,
        block_size=snapshot.block_size,
        bytes_per_block=info.geometry.bytes_per_block,
        offset=query.offset,
        states=block_map.states[wanted].tobytes().decode("ascii"),
        filled_slots=block_map.filled_slots[wanted].tolist(),
        ref_counts=block_map.ref_counts[wanted].tolist(),
        owners=block_map.owners[first_owner : first_owner + num_owners].tolist() if has_owners else [],
        request_ids=block_map.request_ids if has_owners else [],
    )
    return msgspec.json.encode(answer)
