"""Token deltas of one choice become pieces of text with their log-probabilities."""

from typing import NamedTuple

from engine.request import FinishReason, SamplingParams, TokenDelta, TokenLogprobs
from server.stop_strings import Released, StopMatcher
from server.tokenizer import Tokenizer


class PlacedLogprobs(NamedTuple):
    """Log-probabilities of a token, and where its text begins.

    Attributes:
        offset: characters of output before it.
        entry: the log-probabilities; None for the first token of a prompt, which nothing predicts.
        token_id: the token.
    """

    offset: int
    entry: TokenLogprobs | None
    token_id: int


class Piece(NamedTuple):
    """What a delta adds to what a client sees.

    Attributes:
        text: new text; often empty (half a character, or part of what may be a stop string).
        logprobs: of the tokens whose text is out now.
        finish_reason: set on the last piece.
        token_ids: the tokens whose text is out now; on the last piece all that are left, those of a stop string too.
    """

    text: str
    logprobs: list[PlacedLogprobs]
    finish_reason: FinishReason | None
    token_ids: list[int]


class TextAssembler:
    """Decodes, watches for stop strings, and keeps log-probabilities in step with the text.

    A token and its log-probabilities are held back with its text: they would tell a stop string before its time.

    Args:
        tokenizer: of the model.
        prompt_token_ids: what the output goes on from.
        params: stop strings and min_tokens of the request.
        skip_special_tokens: leave special tokens out of the text.
        include_stop: keep the stop string or stop token that ends the output.
        kept_token_ids: special tokens that are not left out.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        skip_special_tokens: bool,
        include_stop: bool,
        kept_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        self._detokenizer = tokenizer.detokenizer(
            skip_special_tokens=skip_special_tokens, before=prompt_token_ids, kept_token_ids=kept_token_ids
        )
        self._matcher = StopMatcher(params.stop, include_stop=include_stop)
        self._min_tokens = params.min_tokens
        self._include_stop = include_stop
        self._num_tokens = 0
        self._num_decoded_chars = 0
        self._num_released_chars = 0
        self._waiting: list[tuple[int, PlacedLogprobs]] = []

    def feed(self, delta: TokenDelta) -> Piece:
        """The piece that `delta` adds; with a finish reason when the engine or a stop string ends the choice."""
        text = ""
        for place, token_id in enumerate(delta.token_ids):
            entry = delta.logprobs[place] if delta.logprobs else None
            if token_id == delta.stop_token_id and not self._include_stop:
                self._wait(token_id, entry, self._num_decoded_chars)
                break
            released = self._feed_token(token_id, entry)
            text += released.text
            if released.is_stopped:
                return self._last_piece(text, FinishReason.STOP)
        if delta.finish_reason is None:
            return self._piece(text, None)
        last = self._matcher.feed(self._detokenizer.flush())
        if last.is_stopped:
            return self._last_piece(text + last.text, FinishReason.STOP)
        piece = self._last_piece(text + last.text + self._matcher.flush(), delta.finish_reason)
        # All text is out, so every token is: also those that were half a character when the last one came.
        return piece._replace(logprobs=[*piece.logprobs, *_known(self._waiting)])

    def _feed_token(self, token_id: int, entry: TokenLogprobs | None) -> Released:
        offset = self._num_decoded_chars
        new = self._detokenizer.feed(token_id)
        self._num_tokens += 1
        self._num_decoded_chars += len(new)
        self._wait(token_id, entry, offset)
        if self._num_tokens < self._min_tokens:
            # Too early to stop: what is here can be part of no match, so nothing of it needs to be held.
            return Released(new, is_stopped=False)
        return self._matcher.feed(new)

    def _wait(self, token_id: int, entry: TokenLogprobs | None, offset: int) -> None:
        """Hold a token until the text decoded so far is out, and the character that it began."""
        end = self._num_decoded_chars + self._detokenizer.is_within_character
        self._waiting.append((end, PlacedLogprobs(offset, entry, token_id)))

    def _piece(self, text: str, finish_reason: FinishReason | None) -> Piece:
        self._num_released_chars += len(text)
        num_out = sum(end <= self._num_released_chars for end, _ in self._waiting)
        out, self._waiting = self._waiting[:num_out], self._waiting[num_out:]
        return Piece(text, _known(out), finish_reason, [placed.token_id for _, placed in out])

    def _last_piece(self, text: str, finish_reason: FinishReason) -> Piece:
        piece = self._piece(text, finish_reason)
        rest = [placed.token_id for _, placed in self._waiting]
        return piece._replace(token_ids=[*piece.token_ids, *rest])


def _known(waiting: list[tuple[int, PlacedLogprobs]]) -> list[PlacedLogprobs]:
    """Those that have log-probabilities."""
    return [placed for _, placed in waiting if placed.entry is not None]
