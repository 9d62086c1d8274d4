"""GET /v1/requests/{id}: how a request that runs or waits is doing, and what it holds."""

import msgspec
from fastapi import APIRouter, Depends
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from engine.info import RequestState
from server.auth import requires_admin
from server.errors import request_not_found
from server.openapi import REQUEST_STATES
from server.protocol.kv_blocks import RequestStateOut, RequestStatesOut
from server.receipts import price_receipt
from server.request_id import response_id
from server.sampling import ready_info
from server.served_model import ServedModel, ServerState

router = APIRouter(tags=["kv"])


@router.get("/v1/requests/{request_id}", responses=REQUEST_STATES, dependencies=[Depends(requires_admin)])
async def get_request(request_id: str, http_request: HTTPRequest) -> Response:
    """The live state and memory receipt of a response's choices (`chatcmpl-…`), or of one of them (`chatcmpl-…-0`)."""
    state: ServerState = http_request.app.state.server
    for model in state.models.values():
        names = [name for name in model.client.open_request_ids if request_id in (name, response_id(name))]
        found = await model.client.request_states(names) if names else []
        if found:
            answer = RequestStatesOut(request_id, [_describe(one, model) for one in found])
            return Response(msgspec.json.encode(answer), media_type="application/json")
    raise request_not_found(request_id)


def _describe(state: RequestState, model: ServedModel) -> RequestStateOut:
    return RequestStateOut(
        request_id=state.request_id,
        model=model.name,
        status=state.status,
        prompt_tokens=state.num_prompt_tokens,
        completion_tokens=state.num_output_tokens,
        preemptions=state.num_preemptions,
        kv_receipt=price_receipt(state.kv_receipt, state.num_cached_tokens, ready_info(model).geometry),
    )
