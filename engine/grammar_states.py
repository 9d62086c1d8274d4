"""Where each request is in its grammar, and which tokens fit there.

A state moves by a token as soon as that is known, and a thread computes the tokens that fit next while the engine sends,
schedules and runs the model; the sampler waits for the rest of it. A state depends on its request's tokens alone: a
preemption, after which their KV is computed again, does not touch it. Compiling has a thread of its own, and the request
waits for it outside the scheduler, so that it holds up nobody else.
"""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import llguidance
import numpy as np
from numpy.typing import NDArray

from engine.grammar import GrammarError, build_tokenizer, compile_grammar, ending_tokens, why_stuck
from engine.request import FinishReason, Request
from engine.token_bytes import TokenBytes
from engine.token_masks import MASK_WORD_BITS, token_bits

Bits = NDArray[np.int64]
MAX_COMPILED = 64
"""Compiled grammars that are kept: clients send the same few again and again."""
COMPILE_WAIT_S = 0.01


class Move(NamedTuple):
    """What a sampled token did to a state.

    Attributes:
        is_taken: the token is part of the output; else it is to be dropped.
        finish_reason: STOP where the grammar is complete, ERROR where it cannot go on; None: it goes on.
        error: with ERROR, why, fit for a client's eyes.
    """

    is_taken: bool
    finish_reason: FinishReason | None = None
    error: str | None = None


class GrammarState:
    """One request's place in its grammar.

    Args:
        matcher: the grammar before its first token; no other state may use it.
        threads: compute masks.
        vocab_size: columns of the logits.
        eos_bits: [ceil((vocab_size + 1) / 64)] int64, the tokens that may end a complete output.
        keeps_eos_out: the output goes on past these as long as the grammar can.
    """

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        threads: ThreadPoolExecutor,
        vocab_size: int,
        eos_bits: Bits,
        *,
        keeps_eos_out: bool,
    ) -> None:
        self._matcher = matcher
        self._threads = threads
        self._num_words = -(-vocab_size // MASK_WORD_BITS)
        self._eos_bits = eos_bits
        self._keeps_eos_out = keeps_eos_out
        self._mask = threads.submit(self._compute)

    def mask(self) -> Bits | None:
        """The tokens that fit next, [ceil(vocab_size / 64)] int64, a bit each, lowest first.

        None: the output cannot go on, so whatever is sampled will be dropped.
        """
        return self._mask.result()

    def advance(self, token_id: int) -> Move:
        """Go on by the sampled token, and begin to compute what fits after it."""
        mask = self.mask()
        if mask is None:
            return self._end()
        if not _has_bit(mask, token_id):
            return Move(False, FinishReason.ERROR, "no token that the request allows fits its grammar")
        if not self._matcher.consume_token(token_id):
            return self._stuck()
        if self._matcher.is_stopped():
            return Move(True, FinishReason.STOP)
        self._mask = self._threads.submit(self._compute)
        return Move(True)

    def _end(self) -> Move:
        """Nothing but the end fits, or nothing at all."""
        if not self._matcher.is_error() and self._matcher.is_accepting():
            return Move(False, FinishReason.STOP)
        return self._stuck()

    def _stuck(self) -> Move:
        return Move(False, FinishReason.ERROR, f"the grammar cannot go on: {why_stuck(self._matcher)}")

    def _compute(self) -> Bits | None:
        raw = self._matcher.compute_bitmask()
        padding = bytes(8 * len(self._eos_bits) - len(raw))
        bits: Bits = np.frombuffer(raw + padding, dtype="<i8")
        others = bits & ~self._eos_bits
        if self._matcher.is_error() or not others.any():
            return None
        return (others if self._keeps_eos_out else bits)[: self._num_words]


def _has_bit(bits: Bits, place: int) -> bool:
    word, bit = divmod(place, MASK_WORD_BITS)
    return bool(int(bits[word]) >> bit & 1)


class Begun(NamedTuple):
    """A request whose grammar is compiled; with `error`, one whose grammar cannot be."""

    request: Request
    error: str | None = None


class GrammarStates:
    """The states of all requests that have a grammar.

    Args:
        vocab_size: columns of the logits.
        eos_token_ids: the model's end-of-sequence tokens.
    """

    def __init__(self, vocab_size: int, eos_token_ids: list[int]) -> None:
        self._vocab_size = vocab_size
        self._eos_token_ids = eos_token_ids
        # One word more than the logits have, perhaps: states cut it off.
        self._eos_bits = token_bits(ending_tokens(vocab_size, eos_token_ids), vocab_size + 1)
        # Threads start with the first grammar; one each, so that masks never wait for a compilation.
        self._compiler = ThreadPoolExecutor(1, "grammar-compile")
        self._masker = ThreadPoolExecutor(1, "grammar-mask")
        self._tokenizer: Future[llguidance.LLTokenizer] | None = None
        self._compiled: OrderedDict[str, Future[llguidance.LLMatcher]] = OrderedDict()
        self._beginning: dict[str, tuple[Request, Future[llguidance.LLMatcher]]] = {}
        self._states: dict[str, GrammarState] = {}

    @property
    def num_beginning(self) -> int:
        """Requests that wait for their grammar."""
        return len(self._beginning)

    def learn(self, token_bytes: TokenBytes) -> None:
        """What tokens stand for: needed before the first request begins."""
        self._tokenizer = self._compiler.submit(build_tokenizer, token_bytes, self._vocab_size, self._eos_token_ids)

    def begin(self, request: Request) -> None:
        """Start to compile the grammar of a new request; `take_begun` gives the request back."""
        grammar = request.sampling_params.grammar
        compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = self._compiled[grammar] = self._compiler.submit(self._compile, grammar)
        self._compiled.move_to_end(grammar)
        if len(self._compiled) > MAX_COMPILED:
            self._compiled.popitem(last=False)
        self._beginning[request.request_id] = request, compiled

    def take_begun(self, *, may_wait: bool) -> list[Begun]:
        """Requests whose grammar has been compiled since the last call.

        Args:
            may_wait: there is nothing else to do: wait a little for the first one.
        """
        if may_wait:
            wait([compiled for _, compiled in self._beginning.values()], COMPILE_WAIT_S, "FIRST_COMPLETED")
        done = [(request, compiled) for request, compiled in self._beginning.values() if compiled.done()]
        return [self._finish_beginning(request, compiled) for request, compiled in done]

    def find(self, request_id: str) -> Request | None:
        """A request that waits for its grammar."""
        return self._beginning[request_id][0] if request_id in self._beginning else None

    def forget(self, request_id: str) -> Request | None:
        """Drop what is held for a request; the request itself where it was still waiting for its grammar."""
        self._states.pop(request_id, None)
        return self._beginning.pop(request_id, (None,))[0]

    def masks(self, requests: Sequence[Request]) -> dict[str, Bits]:
        """request_id -> tokens that fit next (see `GrammarState.mask`); waits for those that are still computed."""
        states = {request.request_id: self._states.get(request.request_id) for request in requests}
        masks = {request_id: state.mask() for request_id, state in states.items() if state is not None}
        return {request_id: mask for request_id, mask in masks.items() if mask is not None}

    def advance(self, request: Request, token_id: int) -> Move:
        """Go on by a sampled token; requests without a grammar take every token."""
        state = self._states.get(request.request_id)
        return Move(True) if state is None else state.advance(token_id)

    def _compile(self, grammar: str) -> llguidance.LLMatcher:
        if self._tokenizer is None:
            raise GrammarError("the engine was not told what its tokens stand for")
        return compile_grammar(self._tokenizer.result(), grammar)

    def _finish_beginning(self, request: Request, compiled: Future[llguidance.LLMatcher]) -> Begun:
        del self._beginning[request.request_id]
        try:
            matcher = compiled.result().deep_copy()
        except GrammarError as error:
            return Begun(request, str(error))
        self._states[request.request_id] = GrammarState(
            matcher,
            self._masker,
            self._vocab_size,
            self._eos_bits,
            keeps_eos_out=request.sampling_params.ignore_eos,
        )
        return Begun(request)
