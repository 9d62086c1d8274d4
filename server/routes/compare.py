"""/v1/compare: variants of a served model with other numbers of key/value heads, measured while the model is served."""

import asyncio
from collections.abc import AsyncGenerator
from http import HTTPStatus

import msgspec
import psutil
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from engine.info import EngineInfo
from server.auth import requires_admin
from server.compare.errors import ComparisonRefusedError
from server.compare.plan import Job, plan_comparison
from server.compare.records import ComparisonRecord, Ended
from server.compare.run import Event
from server.compare.runs import Run
from server.errors import APIError, comparison_not_found, comparison_running, invalid_request
from server.load.prompts import WORDS
from server.openapi import COMPARISON, COMPARISON_EVENTS, COMPARISON_STARTED, COMPARISONS
from server.protocol.compare import MAX_JOB_TOKENS, CompareBody
from server.sampling import ready_info
from server.served_model import ServedModel, ServerState
from server.streaming import DONE, SentEvents, data_event

router = APIRouter(tags=["compare"], dependencies=[Depends(requires_admin)])


@router.post("/v1/compare", status_code=HTTPStatus.ACCEPTED, responses=COMPARISON_STARTED)
async def start_comparison(body: CompareBody, request: Request) -> Response:
    """Begin to compare variants of a served model; one comparison runs at a time.

    The variants are made and measured beside the served models, whose requests go on, and take part of the machine.
    """
    state: ServerState = request.app.state.server
    model = state.find(body.model)
    ready_info(model)
    job = await asyncio.to_thread(_plan, body, model)
    if (running := state.comparisons.running) is not None:
        raise comparison_running(running.record.id)
    run = state.comparisons.start(job, lambda: sum(one.client.num_requests for one in state.models.values()))
    return _answer(run.record, HTTPStatus.ACCEPTED)


@router.get("/v1/compare", responses=COMPARISONS)
async def list_comparisons(request: Request) -> Response:
    """The comparison that runs, and those that are kept, the newest first; without their results."""
    state: ServerState = request.app.state.server
    records = [msgspec.structs.replace(record, result=None) for record in await state.comparisons.all()]
    return Response(msgspec.json.encode({"object": "list", "data": records}), media_type="application/json")


@router.get("/v1/compare/{comparison_id}", responses=COMPARISON)
async def get_comparison(comparison_id: str, request: Request) -> Response:
    """How a comparison is, and what it found."""
    return _answer((await _find(comparison_id, request)).record)


@router.get("/v1/compare/{comparison_id}/events", responses=COMPARISON_EVENTS)
async def watch_comparison(comparison_id: str, request: Request) -> Response:
    """Its events from the start on, as they come: progress, each variant that is done, its end; then `[DONE]`."""
    run, state = await _find(comparison_id, request), request.app.state.server
    return SentEvents(_frames(run), lambda: None, state.http.keep_alive_interval_s)


@router.delete("/v1/compare/{comparison_id}", responses=COMPARISON)
async def delete_comparison(comparison_id: str, request: Request) -> Response:
    """Stop a comparison that runs, or keep the result of an ended one no longer; what it was is the answer."""
    state: ServerState = request.app.state.server
    record = await state.comparisons.remove(comparison_id)
    if record is None:
        raise comparison_not_found(comparison_id)
    return _answer(record)


def _plan(body: CompareBody, model: ServedModel) -> Job:
    """What is to be measured.

    Raises:
        APIError: it makes no sense, or is too much (400).
    """
    token_ids = model.tokenizer.encode(WORDS, add_special_tokens=False)
    try:
        job = plan_comparison(body.settings(), model.client.folder, model.client.settings, token_ids)
    except ComparisonRefusedError as error:
        raise invalid_request(str(error), param=error.param) from None
    if job.num_tokens > MAX_JOB_TOKENS:
        raise _too_much(job.num_tokens)
    _check_memory(body, ready_info(model))
    return job


def _check_memory(body: CompareBody, info: EngineInfo) -> None:
    """On a CPU nothing else keeps a pool that is too large from taking the served models' memory; a GPU's owner refuses.

    Raises:
        APIError: the variant's weights and KV pool are more than the machine has to give (400).
    """
    needed, available = info.ledger.weights_bytes + body.kv_cache_memory_bytes, psutil.virtual_memory().available
    if info.device == "cpu" and needed > available:
        raise invalid_request(
            f"kv_cache_memory_bytes: weights and KV pool of a variant take {needed} bytes beside the served models, and"
            f" {available} are available: ask for less",
            param="kv_cache_memory_bytes",
        )


def _too_much(num_tokens: int) -> APIError:
    return invalid_request(
        f"this comparison would compute {num_tokens} tokens, and at most {MAX_JOB_TOKENS} are allowed: ask for fewer or"
        " shorter requests, for fewer variants, or for less kv_cache_memory_bytes; `headcount compare` has no such limit",
        param="num_requests",
    )


async def _find(comparison_id: str, request: Request) -> Run:
    state: ServerState = request.app.state.server
    run = await state.comparisons.find(comparison_id)
    if run is None:
        raise comparison_not_found(comparison_id)
    return run


async def _frames(run: Run) -> AsyncGenerator[bytes, None]:
    event: Event | Ended
    async for event in run.events():
        yield data_event(event)
    yield DONE


def _answer(record: ComparisonRecord, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(msgspec.json.encode(record), status, media_type="application/json")
