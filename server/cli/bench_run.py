"""Puts a server under load: closed loop (so many requests at once) or open loop (so many a second)."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server.cli.bench_load import Body, LoadOptions
from server.cli.bench_stream import time_request
from server.cli.errors import CommandError
from server.cli.options import ServerOptions
from server.cli.sse import refuse
from server.load.prompts import WORDS
from server.load.times import LevelTimes, RequestFailedError, RequestTimes, closed_loop

WARM_UP_TOKENS = 8
REQUEST_TIMEOUT_S = 600.0


class Measured(msgspec.Struct):
    """A whole run."""

    model: dict[str, Any]
    server_version: str
    levels: list[LevelTimes]


async def run_bench(server: ServerOptions, load: LoadOptions) -> Measured:
    """Warm the server up, then measure it at each concurrency, or at each rate where there are any.

    Raises:
        CommandError: the server refuses what a bench needs.
        httpx.TransportError: no server answers.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx.Timeout(REQUEST_TIMEOUT_S, connect=5.0)
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers, limits=limits, timeout=timeout) as client:
        model = await _find_model(client, server.model)
        bodies = load.bodies(model["id"], await _token_ids(client, model["id"]))
        await _warm_up(client, bodies, load)
        if load.request_rate:
            levels = [await run_open_loop(client, bodies, rate, load.arrivals_s(rate)) for rate in load.request_rate]
        else:
            levels = [await run_closed_loop(client, bodies, n, load.requests_at(n)) for n in load.concurrency]
        return Measured(model, await _server_version(client), levels)


async def _find_model(client: httpx.AsyncClient, name: str | None) -> dict[str, Any]:
    response = await client.get("/v1/models")
    refuse(response)
    models: dict[str, dict[str, Any]] = {entry["id"]: entry for entry in response.json()["data"]}
    if name is not None and name not in models:
        raise CommandError(f"no model {name} is served there; there are: {', '.join(models)}")
    return models[name] if name is not None else next(iter(models.values()))


async def _token_ids(client: httpx.AsyncClient, model: str) -> list[int]:
    response = await client.post("/tokenize", json={"model": model, "prompt": WORDS, "add_special_tokens": False})
    refuse(response)
    return list(response.json()["tokens"])


async def _server_version(client: httpx.AsyncClient) -> str:
    response = await client.get("/version")
    return str(response.json().get("version", "unknown")) if response.is_success else "unknown"


async def _warm_up(client: httpx.AsyncClient, bodies: Iterator[Body], load: LoadOptions) -> None:
    """Short answers, which do not count, at the highest concurrency that will come."""
    num_requests = 1 if load.request_rate else max(load.concurrency)
    short = ({**body, "max_tokens": min(WARM_UP_TOKENS, load.max_tokens)} for body in bodies)
    await run_closed_loop(client, short, num_requests, num_requests)


async def run_closed_loop(
    client: httpx.AsyncClient, bodies: Iterator[Body], concurrency: int, num_requests: int
) -> LevelTimes:
    """Send `num_requests` requests, `concurrency` at a time: as soon as one ends, the next one is sent."""
    sends = [partial(_send, client, next(bodies)) for _ in range(num_requests)]
    with _progress(LevelTimes(concurrency).title, num_requests) as advance:
        return await closed_loop(sends, concurrency, advance)


async def _send(client: httpx.AsyncClient, body: Body, due_s: float | None = None) -> RequestTimes:
    try:
        return await time_request(client, body, due_s)
    except (CommandError, httpx.HTTPError) as error:
        raise RequestFailedError(str(error) or type(error).__name__) from error


async def run_open_loop(
    client: httpx.AsyncClient, bodies: Iterator[Body], rate: float, arrivals_s: list[float]
) -> LevelTimes:
    """Send a request at each of the times `arrivals_s`, whatever has become of the earlier ones."""
    level = LevelTimes(request_rate=rate)
    due = list(zip(arrivals_s, bodies, strict=False))
    with _progress(level.title, len(due)) as advance:
        started_s = time.perf_counter()

        async def send(due_s: float, body: Body) -> None:
            await asyncio.sleep(due_s - time.perf_counter())
            await level.add(_send(client, body, due_s))
            advance()

        async with asyncio.TaskGroup() as requests:
            for arrival_s, body in due:
                requests.create_task(send(started_s + arrival_s, body))
        level.wall_s = time.perf_counter() - started_s
    return level


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error; gives the function that advances it."""
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)
