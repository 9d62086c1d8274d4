"""Choices: one engine request each, read as pieces of text; several are merged into one stream of events."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from engine.errors import (
    EngineError,
    EngineUnavailableError,
    RequestCutError,
    RequestRefusedError,
    StepFailedError,
)
from engine.request import FinishReason, KVReceipt, Request, TokenDelta, TokenLogprobs
from kvcache.geometry import KVGeometry
from server.metrics import Metrics
from server.protocol.responses import KVReceiptOut, PromptTokensDetails, Usage
from server.receipts import add_receipts, price_receipt
from server.served_model import ServedModel
from server.text_assembler import Piece, TextAssembler
from server.tracing import ChoiceTrace


class Choice:
    """One output of a request.

    Args:
        index: its place in the response.
        model: runs it.
        request: for the engine; it is checked, and refused, here.
        assembler: makes its text.
        metrics: where its timings go.
        trace: where its phases go; None for nowhere.

    Attributes:
        num_generation_tokens: tokens out so far.
        num_cached_tokens: prompt tokens found in the prefix cache.
        kv_receipt: what it holds of the KV cache, as of its newest token; None where nobody asked.
        prompt_logprobs: of prompt tokens 1, 2, … so far, where asked for.

    Raises:
        EngineError: the request is refused, the queue is full, or the engine is not there.
    """

    def __init__(
        self,
        index: int,
        model: ServedModel,
        request: Request,
        assembler: TextAssembler,
        metrics: Metrics,
        *,
        trace: ChoiceTrace | None = None,
    ) -> None:
        self.index = index
        self.request = request
        self.num_generation_tokens = 0
        self.num_cached_tokens = 0
        self.kv_receipt: KVReceipt | None = KVReceipt() if request.enable_kv_receipt else None
        self.prompt_logprobs: list[TokenLogprobs] = []
        self._model_name = model.name
        self._assembler = assembler
        self._metrics = metrics
        self._trace = trace
        self._is_closed = False
        self._deltas = model.client.generate(request)
        self._start_s = time.perf_counter()

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Pieces as they come; the last one has the finish reason. Leaving early aborts the request.

        Raises:
            EngineUnavailableError: the engine ended before the request did.
            StepFailedError: the engine failed at this request.
            RequestCutError: its time was up, or nobody read it.
            RequestRefusedError: its grammar cannot go on.
        """
        last_s = self._start_s
        try:
            async for delta in self._deltas:
                last_s = self._observe(delta, last_s)
                if delta.finish_reason in (FinishReason.ERROR, FinishReason.ABORT):
                    self._close(delta.finish_reason)
                    raise _error_of(delta)
                if not self._has_whole_prompt:
                    continue
                piece = self._assembler.feed(delta)
                if piece.finish_reason is not None:
                    self._close(piece.finish_reason)
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            self.close()

    @property
    def _has_whole_prompt(self) -> bool:
        """Whether the log-probabilities of the prompt are there, as far as anybody asked: it comes in chunks, tokens after it."""
        num_missing = self.request.num_prompt_tokens - 1 - len(self.prompt_logprobs)
        return self.request.sampling_params.prompt_logprobs is None or num_missing <= 0

    def close(self) -> None:
        """End the choice; where its request still runs, it is aborted. Safe to call twice."""
        self._close(FinishReason.ABORT)

    def _close(self, finish_reason: FinishReason) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._deltas.close()
        if self._trace is not None:
            self._trace.end(finish_reason, self.num_generation_tokens, self.num_cached_tokens)
        self._metrics.observe_finished(
            self._model_name,
            finish_reason=finish_reason,
            duration_s=time.perf_counter() - self._start_s,
            num_prompt_tokens=self.request.num_prompt_tokens,
            num_generation_tokens=self.num_generation_tokens,
        )

    def _observe(self, delta: TokenDelta, last_s: float) -> float:
        """Count a delta; the time of the newest token."""
        self.num_cached_tokens = max(self.num_cached_tokens, delta.num_cached_tokens)
        self.prompt_logprobs += delta.prompt_logprobs
        self.kv_receipt = delta.kv_receipt or self.kv_receipt
        if self._trace is not None:
            self._trace.observe(delta)
        if not delta.token_ids:
            return last_s
        now_s = time.perf_counter()
        if self.num_generation_tokens == 0:
            self._metrics.observe_first_token(self._model_name, now_s - self._start_s)
        else:
            self._metrics.observe_inter_token(self._model_name, now_s - last_s)
        self.num_generation_tokens += len(delta.token_ids)
        return now_s


def _error_of(delta: TokenDelta) -> EngineError:
    """What a delta that ends a request without its output tells."""
    message = delta.error or "the request was aborted"
    if delta.error_code is not None:
        return RequestCutError(message, code=delta.error_code)
    if delta.is_grammar_error:
        return RequestRefusedError(message, code="invalid_grammar", param=None)
    if delta.is_engine_lost:
        code = "draining" if delta.finish_reason is FinishReason.ABORT else "engine_unavailable"
        return EngineUnavailableError(message, retry_after_s=1.0, code=code)
    return StepFailedError(message)


class Event(NamedTuple):
    """A piece of one of several choices."""

    choice: Choice
    piece: Piece


async def run_choices(choices: list[Choice]) -> AsyncGenerator[Event, None]:
    """Events of all choices as they come, until each has ended.

    Leaving early, an error in one of them, or cancellation ends all of them.

    Raises:
        EngineError: the engine ended before a choice did, or failed at it.
    """
    try:
        # One choice is the usual case: it needs no task and no queue between its tokens and the client.
        async with aclosing(_events_of(choices[0]) if len(choices) == 1 else _merged(choices)) as events:
            async for event in events:
                yield event
    finally:
        for choice in choices:
            choice.close()  # also those that never began


def usage_of(choices: list[Choice], num_choices_per_prompt: int, geometry: KVGeometry) -> Usage:
    """Tokens so far: every prompt once, with what its first choice found in the prefix cache; every choice's output.

    Args:
        choices: of all prompts.
        num_choices_per_prompt: n.
        geometry: what blocks cost, for the receipt.
    """
    firsts = choices[::num_choices_per_prompt]
    num_prompt_tokens = sum(choice.request.num_prompt_tokens for choice in firsts)
    num_generation_tokens = sum(choice.num_generation_tokens for choice in choices)
    return Usage(
        prompt_tokens=num_prompt_tokens,
        completion_tokens=num_generation_tokens,
        total_tokens=num_prompt_tokens + num_generation_tokens,
        prompt_tokens_details=PromptTokensDetails(sum(choice.num_cached_tokens for choice in firsts)),
        kv_receipt=_receipt_of(choices, geometry),
    )


def _receipt_of(choices: list[Choice], geometry: KVGeometry) -> KVReceiptOut | msgspec.UnsetType:
    receipts = [
        price_receipt(choice.kv_receipt, choice.num_cached_tokens, geometry) for choice in choices if choice.kv_receipt
    ]
    return add_receipts(receipts) if receipts else msgspec.UNSET


async def _events_of(choice: Choice) -> AsyncGenerator[Event, None]:
    async with aclosing(choice.pieces()) as pieces:
        async for piece in pieces:
            yield Event(choice, piece)


async def _merged(choices: list[Choice]) -> AsyncGenerator[Event, None]:
    # Bounded: where nobody reads, deltas are to gather where they are counted, in the stream of each request.
    queue: asyncio.Queue[Event | Exception] = asyncio.Queue(maxsize=len(choices))
    tasks = [asyncio.create_task(_pump(choice, queue)) for choice in choices]
    num_open = len(choices)
    try:
        while num_open:
            event = await queue.get()
            if isinstance(event, Exception):
                raise event
            num_open -= event.piece.finish_reason is not None
            yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(choice: Choice, queue: asyncio.Queue[Event | Exception]) -> None:
    try:
        async with aclosing(_events_of(choice)) as events:
            async for event in events:
                await queue.put(event)
    except Exception as error:
        await queue.put(error)
