"""The ASGI application: routes, middleware, and the life of the engines behind it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from configs.http import HTTPSettings
from engine.errors import ModelLoadError
from server.access_log import AccessLogMiddleware
from server.auth import APIKeyMiddleware, cors_options, open_paths
from server.drain import DrainMiddleware
from server.errors import install_error_handlers
from server.limits import RequestLimitsMiddleware
from server.openapi import ERRORS, install_openapi
from server.request_id import RequestIdMiddleware
from server.routes import (
    chat,
    compare,
    completions,
    dashboard,
    heads,
    health,
    kv,
    kv_blocks,
    kv_plan,
    models,
    requests,
    tokenize,
)
from server.served_model import ServedModel, ServerState
from server.start_report import print_start
from server.tracing import Tracing, TracingMiddleware

logger = logging.getLogger("headcount.server")


def create_app(http: HTTPSettings, served: dict[str, ServedModel], tracing: Tracing | None = None) -> FastAPI:
    """The application that serves `served`; its lifespan starts and ends their engines.

    Args:
        http: limits and keys.
        served: the models by name.
        tracing: makes the spans; None for none.

    Raises:
        SettingsError: a key file cannot be used.
    """
    state = ServerState(http, served, created_s=int(time.time()), tracing=tracing)
    app = FastAPI(
        title="headcount",
        version=version("headcount"),
        lifespan=_lifespan,
        redoc_url=None,
        responses=ERRORS,
        redirect_slashes=False,  # a redirect would be an answer without a body, and to where the client's Host header says
    )
    app.state.server = state
    install_error_handlers(app)
    for module in (completions, chat, models, tokenize, kv, kv_blocks, kv_plan, requests, compare, heads, health):
        app.include_router(module.router)
    install_openapi(app)
    # The last one added is the outermost: every response carries a request id, refused ones too.
    app.add_middleware(RequestLimitsMiddleware, http=http)
    app.add_middleware(DrainMiddleware, state=state)
    app.add_middleware(APIKeyMiddleware, keys=state.keys, open_paths=open_paths(http))
    if http.dashboard:
        dashboard.install(app, needs_key=lambda: state.keys.admit(None) is None)
    if http.cors_origins:
        app.add_middleware(CORSMiddleware, **cors_options(http))
    app.add_middleware(AccessLogMiddleware)
    if tracing is not None:
        app.add_middleware(TracingMiddleware, tracing=tracing)
    app.add_middleware(RequestIdMiddleware)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start all engines at once; HTTP answers while they load. At the end, stop them."""
    state: ServerState = app.state.server
    clients = [model.client for model in state.models.values()]
    for model in state.models.values():
        state.metrics.register(model)
        await model.client.start()
    reports = [asyncio.create_task(_report(model)) for model in state.models.values()]
    yield
    await state.comparisons.shutdown()
    await asyncio.gather(*(client.shutdown() for client in clients))
    await asyncio.gather(*reports)
    await state.close()
    if state.tracing is not None:
        await asyncio.to_thread(state.tracing.shutdown)


async def _report(model: ServedModel) -> None:
    """Log how loading ended."""
    try:
        info = await model.client.wait_ready()
    except ModelLoadError as error:
        logger.error("model %s: %s", model.name, error)
        return
    geometry = info.geometry
    logger.info(
        "model %s is ready after %.1f s: %s, %s attention, %d KV heads of %d query heads, %d KV bytes a token,"
        " %d blocks of %d tokens, %s on %s",
        model.name,
        sum(info.startup_s.values()),
        info.architecture,
        geometry.attention_type,
        geometry.layers[0].num_kv_heads,
        geometry.layers[0].num_q_heads,
        geometry.bytes_per_token,
        info.num_blocks,
        geometry.block_size,
        info.dtype,
        info.device,
    )
    print_start(info)
