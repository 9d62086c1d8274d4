"""POST /v1/heads/attention: what the heads of a served model look at, in a short text."""

import asyncio
import base64

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from engine.admission import check_token_ids
from engine.info import EngineInfo
from kvcache.geometry import LayerGeometry
from server.auth import requires_admin
from server.errors import invalid_request
from server.openapi import ATTENTION
from server.protocol.heads import MAX_TOKENS, MAX_WEIGHTS_BYTES, AttentionBody, AttentionOut, LayerAttention
from server.sampling import ready_info
from server.served_model import ServedModel, ServerState

router = APIRouter(tags=["heads"], dependencies=[Depends(requires_admin)])

BYTES_PER_WEIGHT = 2


@router.post("/v1/heads/attention", responses=ATTENTION)
async def compute_attention(body: AttentionBody, request: Request) -> Response:
    """The attention weights of a text, layer by layer and head by head.

    They are recomputed from the weights that serve, between two steps, as long as a prefill of the text takes.
    """
    state: ServerState = request.app.state.server
    model = state.find(body.model)
    info = ready_info(model)
    token_ids = await _encode(body, model, info)
    layers = _layers(body, info)
    _check_size(len(token_ids), [info.geometry.layers[layer_idx] for layer_idx in layers])
    maps = await model.client.attention_maps(token_ids, layers)
    # In a thread: megabytes are encoded, and tokens of other requests are not to wait for it.
    answer = await asyncio.to_thread(_answer, model, info, token_ids, layers, maps)
    return Response(answer, media_type="application/json")


async def _encode(body: AttentionBody, model: ServedModel, info: EngineInfo) -> list[int]:
    """Token ids of the prompt.

    Raises:
        APIError: there is none, or there are too many (400).
        RequestRefusedError: one is not in the vocabulary (400).
    """
    token_ids = body.prompt
    if isinstance(token_ids, str):
        [token_ids] = await model.tokenizer.encode_async([token_ids], add_special_tokens=body.add_special_tokens)
    limit = min(MAX_TOKENS, info.max_model_len)
    if not 1 <= len(token_ids) <= limit:
        message = f"prompt must be 1 to {limit} tokens, got {len(token_ids)}: shorten it"
        raise invalid_request(message, code="context_length_exceeded", param="prompt")
    check_token_ids("prompt", token_ids, info)
    return token_ids


def _layers(body: AttentionBody, info: EngineInfo) -> list[int]:
    """Indices of the layers that are asked for, in order.

    Raises:
        APIError: there is no such layer (400).
    """
    num_layers = len(info.geometry.layers)
    wanted = range(num_layers) if body.layers is None else sorted(set(body.layers))
    if worst := [layer_idx for layer_idx in wanted if not 0 <= layer_idx < num_layers]:
        raise invalid_request(f"layers must be 0 to {num_layers - 1}, got {worst[0]}", param="layers")
    return list(wanted)


def _check_size(num_tokens: int, layers: list[LayerGeometry]) -> None:
    """Raise an APIError (400) where the answer would be too large."""
    num_heads = sum(layer.num_q_heads for layer in layers)
    num_bytes = num_heads * num_tokens * (num_tokens + 1) // 2 * BYTES_PER_WEIGHT
    if num_bytes > MAX_WEIGHTS_BYTES:
        raise invalid_request(
            f"the weights of {num_heads} heads over {num_tokens} tokens would take {num_bytes} bytes, and at most"
            f" {MAX_WEIGHTS_BYTES} are sent: name fewer layers, or shorten the prompt",
            param="layers",
        )


def _answer(model: ServedModel, info: EngineInfo, token_ids: list[int], layers: list[int], maps: list[bytes]) -> bytes:
    geometry = info.geometry.layers
    return msgspec.json.encode(
        AttentionOut(
            model=model.name,
            num_layers=len(geometry),
            token_ids=token_ids,
            tokens=[model.tokenizer.token_text(token_id) for token_id in token_ids],
            is_delimiter=model.tokenizer.find_delimiters(token_ids),
            layers=[
                LayerAttention(
                    layer_idx=layer_idx,
                    num_q_heads=geometry[layer_idx].num_q_heads,
                    num_kv_heads=geometry[layer_idx].num_kv_heads,
                    weights=base64.b64encode(weights).decode("ascii"),
                )
                for layer_idx, weights in zip(layers, maps, strict=True)
            ],
        )
    )
