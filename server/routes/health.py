"""GET /health, /ready, /version and /metrics: what machines ask a server."""

from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from engine.client import EngineState
from server.errors import ErrorResponse, unavailable
from server.served_model import ServedModel, ServerState

router = APIRouter(tags=["server"])

RETRY_AFTER_S = 5.0


class EngineHealth(BaseModel):
    """One model's engine."""

    model: str
    state: EngineState
    num_restarts: int


class Health(BaseModel):
    """Every engine answers."""

    status: Literal["ok"] = "ok"
    engines: list[EngineHealth]


class Readiness(BaseModel):
    """Requests are taken."""

    status: Literal["ready"] = "ready"


class Version(BaseModel):
    """What runs here."""

    version: str


@router.get("/health", responses={503: {"model": ErrorResponse}})
async def get_health(request: Request) -> Health:
    """200 while every engine answers; else 503, which says which one does not, and why."""
    state: ServerState = request.app.state.server
    _check_engines(state)
    engines = [
        EngineHealth(model=model.name, state=model.client.state, num_restarts=model.client.num_restarts)
        for model in state.models.values()
    ]
    return Health(engines=engines)


@router.get("/ready", responses={503: {"model": ErrorResponse}})
async def get_ready(request: Request) -> Readiness:
    """200 when all models are loaded and the server takes requests; 503 while it loads or drains."""
    state: ServerState = request.app.state.server
    if state.is_draining:
        raise unavailable("the server is shutting down", retry_after_s=RETRY_AFTER_S, code="draining")
    _check_engines(state)
    return Readiness()


@router.get("/version")
async def get_version() -> Version:
    """The version of headcount."""
    return Version(version=version("headcount"))


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def get_metrics(request: Request) -> Response:
    """Prometheus metrics, in the text format."""
    state: ServerState = request.app.state.server
    body, content_type = state.metrics.render()
    return Response(body, headers={"Content-Type": content_type})


def _check_engines(state: ServerState) -> None:
    """Raise an APIError (503) that names every engine that does not answer."""
    problems = [
        f"model {model.name!r}: {_problem(model)}"
        for model in state.models.values()
        if model.client.state is not EngineState.READY
    ]
    if problems:
        raise unavailable("; ".join(problems), retry_after_s=RETRY_AFTER_S)


def _problem(model: ServedModel) -> str:
    client = model.client
    return f"it cannot be loaded: {client.failure}" if client.failure else f"the engine is {client.state}"
