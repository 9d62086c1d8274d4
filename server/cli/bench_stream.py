"""One streamed request, timed."""

import time
from typing import Any

import httpx

from server.cli.errors import CommandError
from server.cli.sse import parse_event, refuse
from server.load.times import RequestTimes


async def time_request(client: httpx.AsyncClient, body: dict[str, Any], due_s: float | None = None) -> RequestTimes:
    """Send a streaming completion request and keep the time of all that comes back.

    Args:
        client: of the server.
        body: asks for a stream, its usage, and max_tokens tokens whatever they are.
        due_s: when it should have been sent, on the clock of time.perf_counter; None: now. A client that is late
            counts against the server no less, for whoever waits does not know why.

    Raises:
        CommandError: the server refuses, breaks off, or gives another number of tokens.
        httpx.TransportError: the connection fails.
    """
    started_s = time.perf_counter() if due_s is None else due_s
    usage, arrivals = None, []
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if not response.is_success:
            await response.aread()
        refuse(response)
        async for line in response.aiter_lines():
            event = _event(line)
            if event is None:
                continue
            usage = event.get("usage") or usage
            if _carries_tokens(event):
                arrivals.append(time.perf_counter())
    ended_s = time.perf_counter()
    if usage is None or not arrivals:
        raise CommandError("the stream ended without tokens or without its usage")
    num_tokens = usage["completion_tokens"]
    if num_tokens != body["max_tokens"]:
        raise CommandError(f"the answer has another length: expected {body['max_tokens']} tokens, got {num_tokens}")
    return RequestTimes.of(started_s, arrivals, ended_s, prompt_tokens=usage["prompt_tokens"], output_tokens=num_tokens)


def _event(line: str) -> dict[str, Any] | None:
    try:
        return parse_event(line)
    except ValueError:
        raise CommandError(f"the stream holds what is no JSON: {line[:80]!r}") from None


def _carries_tokens(event: dict[str, Any]) -> bool:
    """False for the usage chunk, and for an empty chunk that only says why the answer ended."""
    return any(choice.get("text") or not choice.get("finish_reason") for choice in event.get("choices", []))
