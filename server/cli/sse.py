"""Reading a server's answers: JSON, event streams, and errors in words."""

import json
from typing import TYPE_CHECKING, Any

from server.cli.errors import CommandError

if TYPE_CHECKING:
    import httpx

DONE = "[DONE]"


class ServerError(CommandError):
    """The server refused, or ended a stream with an error."""


def parse_event(line: str) -> dict[str, Any] | None:
    """The JSON of one `data:` line; None for keep-alive comments, blank lines and the closing `[DONE]`.

    Raises:
        ServerError: the line carries an error.
    """
    if not line.startswith("data:"):
        return None
    data = line[5:].strip()
    if data == DONE:
        return None
    event: dict[str, Any] = json.loads(data)
    if "error" in event:
        raise ServerError(error_text(event))
    return event


def error_text(body: Any) -> str:
    """The message in an error answer of whatever shape."""
    error = body.get("error", body) if isinstance(body, dict) else body
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "the server gave no reason")


def refuse(response: "httpx.Response") -> None:
    """Raise what an unsuccessful answer says. Its body must have been read.

    Raises:
        ServerError: the status is no success.
    """
    if response.is_success:
        return
    try:
        reason = error_text(response.json())
    except ValueError:
        reason = response.text[:200] or response.reason_phrase
    hint = " (set --api-key or HEADCOUNT_API_KEY)" if response.status_code == 401 else ""
    raise ServerError(f"{reason} [HTTP {response.status_code}]{hint}")


def unreachable(url: str, error: Exception) -> CommandError:
    """What to say when a connection fails."""
    reason = str(error) or type(error).__name__
    return CommandError(
        f"no server answers at {url} ({reason}): start one with `headcount serve`, or name it with --url"
    )
