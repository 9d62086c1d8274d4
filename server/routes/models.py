"""GET /v1/models: what is served, and what a token costs in each."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from server.errors import ErrorResponse
from server.served_model import ServedModel, ServerState

router = APIRouter(tags=["models"])


class ModelEntry(BaseModel):
    """A served model whose engine is still loading."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "headcount"


class LoadedModelEntry(ModelEntry):
    """A served model. Where layers differ, the numbers of heads are the first layer's; /v1/kv has them all."""

    max_model_len: int
    vocab_size: int = Field(description="Token ids run from 0 to this, less one.")
    attention_type: str
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    num_layers: int
    kv_bytes_per_token: int


class ModelList(BaseModel):
    """All served models."""

    object: Literal["list"] = "list"
    data: list[LoadedModelEntry | ModelEntry]


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """All served models, with the geometry of those that are loaded."""
    state: ServerState = request.app.state.server
    return ModelList(data=[_entry(model, state.created_s) for model in state.models.values()])


@router.get("/v1/models/{model_id:path}", responses={404: {"model": ErrorResponse}})
async def get_model(model_id: str, request: Request) -> LoadedModelEntry | ModelEntry:
    """One served model."""
    state: ServerState = request.app.state.server
    return _entry(state.find(model_id), state.created_s)


def _entry(model: ServedModel, created_s: int) -> LoadedModelEntry | ModelEntry:
    info = model.client.info
    if info is None:
        return ModelEntry(id=model.name, created=created_s)
    first = info.geometry.layers[0]
    return LoadedModelEntry(
        id=model.name,
        created=created_s,
        max_model_len=info.max_model_len,
        vocab_size=info.vocab_size,
        attention_type=info.geometry.attention_type,
        num_q_heads=first.num_q_heads,
        num_kv_heads=first.num_kv_heads,
        head_dim=first.k_head_dim,
        num_layers=len(info.geometry.layers),
        kv_bytes_per_token=info.geometry.bytes_per_token,
    )
