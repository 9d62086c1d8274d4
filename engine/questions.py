"""Questions to an engine that wait for their answers. No torch."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from engine.errors import EngineUnavailableError
from engine.messages import Answer, AttentionAnswer, BlocksAnswer, Question, RequestsAnswer

ANSWER_TIMEOUT_S = 30.0
"""The engine answers between two steps; on a slow machine a long prompt's step takes seconds."""

T = TypeVar("T", BlocksAnswer, RequestsAnswer, AttentionAnswer)


class OpenQuestions:
    """What has been asked and not answered yet.

    A question that is open already is not sent again: all who ask it get the same answer. So the engine answers each at
    most once a step, however many ask, and a late answer is nobody's mistake.

    Args:
        send: takes a question to the engine.
    """

    def __init__(self, send: Callable[[Question], None]) -> None:
        self._send = send
        self._open: dict[Question, asyncio.Future[Answer | None]] = {}

    async def ask(self, question: Question, kind: type[T]) -> T:
        """The answer, which is of that kind.

        Raises:
            EngineUnavailableError: the engine ended meanwhile, or did not answer in time.
        """
        future = self._open.get(question)
        if future is None:
            future = self._open[question] = asyncio.get_running_loop().create_future()
            self._send(question)
        try:
            answer = await asyncio.wait_for(asyncio.shield(future), ANSWER_TIMEOUT_S)
        except TimeoutError:
            message = f"the engine has not answered for {ANSWER_TIMEOUT_S:.0f} s: its step takes long; try again later"
            raise EngineUnavailableError(message, retry_after_s=5.0) from None
        if not isinstance(answer, kind):
            raise EngineUnavailableError("the engine died before it answered", retry_after_s=5.0)
        return answer

    def settle(self, answer: Answer) -> None:
        """Give an answer to all who asked."""
        future = self._open.pop(answer.question, None)
        if future is not None:
            future.set_result(answer)

    def give_up(self) -> None:
        """The engine is gone: nobody will answer."""
        for future in self._open.values():
            future.set_result(None)
        self._open.clear()
