"""Puts a server under load and keeps the time."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import httpx
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server.cli.bench import LoadOptions
from server.cli.errors import CommandError
from server.cli.options import ServerOptions
from server.cli.sse import parse_event, refuse

WARM_UP_TOKENS = 8
REQUEST_TIMEOUT_S = 600.0
WORDS = (
    "The quick brown fox jumps over the lazy dog while seven wizards make toxic brew for the evil queen and her"
    " jovial zebra; some people count heads, others measure memory, and a few read every page twice before lunch."
)
"""Its token ids are what prompts are drawn from: ordinary ones, whatever the vocabulary."""


class RequestTimes(msgspec.Struct):
    """What one request took.

    Attributes:
        ttft_s: from sending to the first token.
        itl_s: from each piece of the answer to the next.
        e2e_s: from sending to the end.
    """

    ttft_s: float = 0.0
    itl_s: list[float] = []
    e2e_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0


class LevelTimes(msgspec.Struct):
    """All requests at one concurrency.

    Attributes:
        wall_s: from the first request's start to the last one's end.
        errors: message -> requests that ended with it.
    """

    concurrency: int
    wall_s: float = 0.0
    completed: list[RequestTimes] = []
    errors: Counter[str] = msgspec.field(default_factory=Counter)

    @property
    def num_completed(self) -> int:
        """Requests that ended well."""
        return len(self.completed)


class Measured(msgspec.Struct):
    """A whole run."""

    model: dict[str, Any]
    server_version: str
    levels: list[LevelTimes]


async def run_bench(server: ServerOptions, load: LoadOptions) -> Measured:
    """Warm the server up, then measure it at each concurrency.

    Raises:
        CommandError: the server refuses what a bench needs.
        httpx.TransportError: no server answers.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx.Timeout(REQUEST_TIMEOUT_S, connect=5.0)
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers, limits=limits, timeout=timeout) as client:
        model = await _find_model(client, server.model)
        bodies = _bodies(model["id"], await _token_ids(client, model["id"]), load)
        warm_up = max(load.concurrency)
        await _run_level(client, bodies, warm_up, warm_up, "warm-up", max_tokens=min(WARM_UP_TOKENS, load.max_tokens))
        levels = [
            await _run_level(client, bodies, concurrency, load.requests_at(concurrency), f"{concurrency} at once")
            for concurrency in load.concurrency
        ]
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


def _bodies(model: str, token_ids: list[int], load: LoadOptions) -> Iterator[dict[str, Any]]:
    """Completion requests without end, each with a prompt of its own."""
    draw = random.Random(load.seed)  # noqa: S311  prompts are no secret
    while True:
        yield {
            "model": model,
            "prompt": draw.choices(token_ids, k=load.prompt_tokens),
            "max_tokens": load.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


async def _run_level(
    client: httpx.AsyncClient,
    bodies: Iterator[dict[str, Any]],
    concurrency: int,
    num_requests: int,
    title: str,
    **changes: int,
) -> LevelTimes:
    """Send `num_requests` requests, `concurrency` at a time; `changes` replace fields of each."""
    level = LevelTimes(concurrency)
    pending = iter([next(bodies) | changes for _ in range(num_requests)])
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=num_requests)
        started = time.perf_counter()
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(concurrency, num_requests)):
                workers.create_task(_work(client, pending, level, lambda: progress.advance(task)))
        level.wall_s = time.perf_counter() - started
    return level


async def _work(
    client: httpx.AsyncClient, pending: Iterator[dict[str, Any]], level: LevelTimes, advance: Callable[[], None]
) -> None:
    for body in pending:
        try:
            level.completed.append(await _time_request(client, body))
        except (CommandError, httpx.TransportError) as error:
            level.errors[str(error) or type(error).__name__] += 1
        advance()


async def _time_request(client: httpx.AsyncClient, body: dict[str, Any]) -> RequestTimes:
    times, usage, arrivals = RequestTimes(), None, []
    started = time.perf_counter()
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if not response.is_success:
            await response.aread()
        refuse(response)
        async for line in response.aiter_lines():
            event = parse_event(line)
            if event is None:
                continue
            usage = event.get("usage") or usage
            if _carries_tokens(event):
                arrivals.append(time.perf_counter())
    if usage is None or not arrivals:
        raise CommandError("the stream ended without tokens or without its usage")
    times.ttft_s, times.e2e_s = arrivals[0] - started, time.perf_counter() - started
    times.itl_s = [later - earlier for earlier, later in pairwise(arrivals)]
    times.prompt_tokens, times.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
    return times


def _carries_tokens(event: dict[str, Any]) -> bool:
    """False for the usage chunk, and for an empty chunk that only says why the answer ended."""
    return any(choice["text"] or not choice.get("finish_reason") for choice in event["choices"])
