"""Grammars that clients send: compiled in a confined process before an engine sees them."""

import asyncio
from collections import OrderedDict

from engine.info import EngineInfo
from server.confined.client import ConfinedProcess, LimitError
from server.confined.jobs import Answer, Compile, Refused, Teach, UnknownVocabulary
from server.errors import APIError, invalid_request, printable
from server.tokenizer import Tokenizer

MAX_REMEMBERED = 256


class GrammarService:
    """Says whether a grammar can be used; the newest answers are remembered.

    Args:
        process: compiles.
        max_grammar_bytes: of the grammar's text.
    """

    def __init__(self, process: ConfinedProcess, max_grammar_bytes: int) -> None:
        self._process = process
        self._max_grammar_bytes = max_grammar_bytes
        self._known: OrderedDict[tuple[str, str], str | None] = OrderedDict()

    async def check(self, grammar: str, param: str, *, model_name: str, tokenizer: Tokenizer, info: EngineInfo) -> None:
        """Let only a grammar pass that the engine can use.

        Args:
            grammar: see engine/grammar.py.
            param: the request's field that it comes from.
            model_name: whose.
            tokenizer: of the model.
            info: of its engine.

        Raises:
            APIError: it is too large, wrong, or takes too long to compile (400).
        """
        if not tokenizer.is_bytewise:
            raise _refusal("this model's tokenizer does not say what bytes its tokens stand for", param)
        if len(grammar) > self._max_grammar_bytes:
            raise _refusal(f"it takes {len(grammar)} bytes, and the limit is {self._max_grammar_bytes}", param)
        key = (model_name, grammar)
        if key not in self._known:
            self._known[key] = await self._problem(Compile(model_name, grammar), tokenizer, info)
        self._known.move_to_end(key)
        problem = self._known[key]
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        if problem is not None:
            raise _refusal(problem, param)

    async def _problem(self, job: Compile, tokenizer: Tokenizer, info: EngineInfo) -> str | None:
        try:
            answer = await self._process.run(job)
            if isinstance(answer, UnknownVocabulary):
                await self._process.run(await _lesson(job.vocabulary, tokenizer, info))
                answer = await self._process.run(job)
        except LimitError as error:
            return str(error)
        return _problem_of(answer)


async def _lesson(name: str, tokenizer: Tokenizer, info: EngineInfo) -> Teach:
    token_bytes = await asyncio.to_thread(lambda: tokenizer.all_token_bytes)
    return Teach(name, token_bytes, info.vocab_size, info.eos_token_ids)


def _problem_of(answer: Answer) -> str | None:
    if not isinstance(answer, Refused):
        return None
    return f"at {answer.place.removeprefix('.')}: {answer.message}" if answer.place else answer.message


def _refusal(problem: str, param: str) -> APIError:
    return invalid_request(f"{param} cannot be used: {printable(problem)}", code="invalid_grammar", param=param)
