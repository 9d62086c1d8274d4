"""A conversation with a served model over HTTP."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import httpx

from server.cli.options import ServerOptions
from server.cli.sse import parse_event, refuse, unreachable

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 300.0
"""Between two pieces of an answer; the first one may wait in the server's queue."""


class Conversation:
    """The messages so far, and the connection.

    Args:
        server: where the server is, and which of its models answers.
        sampling: fields of the chat request.
        system: instruction before the first message.

    Raises:
        CommandError: no server answers there, or it refuses.
    """

    def __init__(self, server: ServerOptions, sampling: dict[str, Any], system: str | None) -> None:
        self.url = server.url
        timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._client = httpx.Client(base_url=server.url, headers=server.headers, timeout=timeout)
        self._sampling = sampling
        self._system = system
        self._messages: list[dict[str, str]] = []
        self.reset()
        self.model = server.model or self._first_model()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def reset(self) -> None:
        """Forget all but the system's instruction."""
        self._messages = [{"role": "system", "content": self._system}] if self._system else []

    def ask(self, question: str) -> Iterator[str]:
        """The answer, piece by piece.

        What has come when the reader stops is what the model is taken to have said; a question without any answer is
        forgotten.

        Raises:
            CommandError: the connection fails or the server ends the answer with an error.
        """
        self._messages.append({"role": "user", "content": question})
        pieces: list[str] = []
        try:
            for text in self._stream():
                pieces.append(text)
                yield text
        finally:
            if pieces:
                self._messages.append({"role": "assistant", "content": "".join(pieces)})
            else:
                self._messages.pop()

    def _stream(self) -> Iterator[str]:
        body = {"model": self.model, "messages": self._messages, "stream": True, **self._sampling}
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if not response.is_success:
                    response.read()
                refuse(response)
                yield from _texts(response)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error

    def _first_model(self) -> str:
        try:
            response = self._client.get("/v1/models")
        except (httpx.TransportError, httpx.InvalidURL) as error:
            self._client.close()
            raise unreachable(self.url, error) from error
        refuse(response)
        return str(response.json()["data"][0]["id"])


def _texts(response: httpx.Response) -> Iterator[str]:
    for line in response.iter_lines():
        event = parse_event(line)
        for choice in event["choices"] if event else ():
            if text := choice["delta"].get("content"):
                yield text
