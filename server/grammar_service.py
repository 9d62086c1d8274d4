"""Grammars that clients send: compiled in a confined process before an engine sees them."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from engine.info import EngineInfo
from server.confined.client import ConfinedProcess, LimitError
from server.confined.jobs import Answer, Compile, Refused, Teach, UnknownVocabulary
from server.errors import APIError, invalid_request, printable
from server.tokenizer import Tokenizer

MAX_REMEMBERED = 256


class OutputGrammar(NamedTuple):
    """A grammar that outputs of a request must match.

    Attributes:
        text: see engine/grammar.py; empty: there is none.
        params: the request's fields that its parts come from, by the parts' names; the first one stands for all.
    """

    text: str = ""
    params: Mapping[str, str] = {}


class GrammarService:
    """Says whether a grammar can be used; the newest answers are remembered.

    Args:
        process: compiles.
        max_grammar_bytes: of the grammar's text.
    """

    def __init__(self, process: ConfinedProcess, max_grammar_bytes: int) -> None:
        self._process = process
        self._max_grammar_bytes = max_grammar_bytes
        self._known: OrderedDict[tuple[str, str], Refused | None] = OrderedDict()

    async def check(self, grammar: OutputGrammar, model_name: str, tokenizer: Tokenizer, info: EngineInfo) -> None:
        """Let only a grammar pass that the engine can use.

        Args:
            grammar: of a request.
            model_name: whose.
            tokenizer: of the model.
            info: of its engine.

        Raises:
            APIError: it is too large, wrong, or takes too long to compile (400).
        """
        if not grammar.text:
            return
        if not tokenizer.is_bytewise:
            raise _refusal(Refused("this model's tokenizer does not say what bytes its tokens stand for"), grammar)
        if len(grammar.text) > self._max_grammar_bytes:
            message = f"it takes {len(grammar.text)} bytes, and the limit is {self._max_grammar_bytes}"
            raise _refusal(Refused(message), grammar)
        key = (model_name, grammar.text)
        if key not in self._known:
            self._known[key] = await self._problem(Compile(*key), tokenizer, info)
        refused = self._known[key]
        self._known.move_to_end(key)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        if refused is not None:
            raise _refusal(refused, grammar)

    async def _problem(self, job: Compile, tokenizer: Tokenizer, info: EngineInfo) -> Refused | None:
        try:
            answer = await self._process.run(job)
            if isinstance(answer, UnknownVocabulary):
                await self._process.run(await _lesson(job.vocabulary, tokenizer, info))
                answer = await self._process.run(job)
        except LimitError as error:
            return Refused(str(error))
        return _refused(answer)


async def _lesson(name: str, tokenizer: Tokenizer, info: EngineInfo) -> Teach:
    token_bytes = await asyncio.to_thread(lambda: tokenizer.all_token_bytes)
    return Teach(name, token_bytes, info.vocab_size, info.eos_token_ids)


def _refused(answer: Answer) -> Refused | None:
    return answer if isinstance(answer, Refused) else None


def _refusal(refused: Refused, grammar: OutputGrammar) -> APIError:
    """The error that names the field, and the place in it."""
    part, dot, place = refused.place.partition(".")
    param = grammar.params.get(part) or next(iter(grammar.params.values()))
    where = f" at {place}" if dot else ""
    message = f"{param} cannot be used{where}: {refused.message}"
    return invalid_request(printable(message), code="invalid_grammar", param=param)
