"""Responses of /v1/completions."""

from collections.abc import Sequence

import msgspec

from engine.request import TokenLogprobs
from server.generation import Choice
from server.protocol.responses import Answer, ChatChoice, ChatChunkChoice, CompletionChoice, CompletionLogprobs
from server.served_model import ServedModel
from server.text_assembler import Piece, PlacedLogprobs
from server.writers.base import Writer

WholeChoice = CompletionChoice | ChatChoice | ChatChunkChoice


class CompletionWriter(Writer):
    """Completions, whole or in chunks.

    Args:
        model: answers.
        choices: all outputs.
        num_choices_per_prompt: outputs that are computed.
        num_kept_per_prompt: of those, how many are given: the most probable ones a token. All, in a stream.
        num_top: what `logprobs` asked for.
        num_prompt_top: what `prompt_logprobs` asked for.
        echoes: the text to put before each choice, by index; empty without `echo`.
        skip_special_tokens: whether special tokens are left out of the echoed text.
        returns_token_ids: give the ids of prompt and output beside the text.
    """

    object_whole = "text_completion"
    object_chunk = "text_completion"

    def __init__(
        self,
        model: ServedModel,
        choices: list[Choice],
        *,
        num_choices_per_prompt: int,
        num_kept_per_prompt: int,
        num_top: int | None,
        num_prompt_top: int | None,
        echoes: dict[int, str],
        skip_special_tokens: bool,
        returns_token_ids: bool = False,
    ) -> None:
        super().__init__(
            model,
            choices,
            num_choices_per_prompt=num_choices_per_prompt,
            num_prompt_top=num_prompt_top,
            returns_token_ids=returns_token_ids,
        )
        self._num_kept_per_prompt = num_kept_per_prompt
        self._num_top = num_top
        self._echoes = echoes
        self._skip_special_tokens = skip_special_tokens

    def _chunk_choice(self, choice: Choice, piece: Piece) -> CompletionChoice:
        is_first = choice.index not in self._has_begun
        echo = self._echoes.get(choice.index, "") if is_first else ""
        part = CompletionChoice(choice.index, echo + piece.text, self._logprobs(choice, piece, is_first=is_first))
        if self._num_prompt_top is not None and is_first:
            part.prompt_logprobs = self._prompt_logprobs(choice)
        if self._returns_token_ids:
            part.token_ids = piece.token_ids
            if is_first:
                part.prompt_token_ids = choice.request.prompt_token_ids
        return part

    def _finish_choice(self, choice: Choice, finish_reason: str) -> CompletionChoice:
        return CompletionChoice(choice.index, "", finish_reason=finish_reason)

    def _whole_choice(self, choice: Choice, piece: Piece) -> CompletionChoice:
        whole = self._chunk_choice(choice, piece)
        whole.finish_reason = piece.finish_reason
        return whole

    def whole(self, pieces: dict[int, list[Piece]]) -> Answer:
        """See Writer."""
        answer = super().whole(pieces)
        if self._num_kept_per_prompt < self._num_choices_per_prompt:
            answer.choices = self._best(answer.choices, {index: _mean_logprob(of) for index, of in pieces.items()})
        return answer

    def _best(self, choices: Sequence[WholeChoice], scores: dict[int, float]) -> list[WholeChoice]:
        """The choices of each prompt that score highest, numbered anew."""
        starts = range(0, len(choices), self._num_choices_per_prompt)
        groups = [choices[start : start + self._num_choices_per_prompt] for start in starts]
        ranked = [sorted(group, key=lambda choice: -scores[choice.index]) for group in groups]
        best = [choice for group in ranked for choice in group[: self._num_kept_per_prompt]]
        for index, choice in enumerate(best):
            choice.index = index
        return best

    def _is_worth_sending(self, part: CompletionChoice | ChatChunkChoice) -> bool:
        has_text = isinstance(part, CompletionChoice) and bool(part.text)
        has_logprobs = isinstance(part.logprobs, CompletionLogprobs) and bool(part.logprobs.tokens)
        return has_text or has_logprobs or bool(part.token_ids) or part.prompt_logprobs is not msgspec.UNSET

    def _logprobs(self, choice: Choice, piece: Piece, *, is_first: bool) -> CompletionLogprobs | None:
        num_top = self._num_top
        if num_top is None:
            return None
        placed = self._echoed(choice) if is_first and choice.index in self._echoes else []
        num_echoed_chars = len(self._echoes.get(choice.index, ""))
        placed += [entry._replace(offset=entry.offset + num_echoed_chars) for entry in piece.logprobs]
        return CompletionLogprobs(
            tokens=[self._model.tokenizer.token_text(place.token_id) for place in placed],
            token_logprobs=[place.entry.logprob if place.entry else None for place in placed],
            top_logprobs=[self._tops(place.entry, num_top) if place.entry else None for place in placed],
            text_offset=[place.offset for place in placed],
        )

    def _echoed(self, choice: Choice) -> list[PlacedLogprobs]:
        """The prompt's tokens, each at the place of its text in the echo."""
        entries = [None, *choice.prompt_logprobs]
        detokenizer = self._model.tokenizer.detokenizer(skip_special_tokens=self._skip_special_tokens)
        placed, offset = [], 0
        for token_id, entry in zip(choice.request.prompt_token_ids, entries, strict=True):
            placed.append(PlacedLogprobs(offset, entry, token_id))
            offset += len(detokenizer.feed(token_id))
        return placed

    def _tops(self, entry: TokenLogprobs, num_top: int) -> dict[str, float]:
        """The most probable tokens and the chosen one. Tokens with one text (parts of characters) share an entry."""
        ids, values = entry.top_token_ids[:num_top], entry.top_logprobs[:num_top]
        pairs = [*zip(ids, values, strict=True), (entry.token_id, entry.logprob)]
        tops: dict[str, float] = {}
        for token_id, value in pairs:
            tops.setdefault(self._model.tokenizer.token_text(token_id), value)
        return tops


def _mean_logprob(pieces: list[Piece]) -> float:
    values = [placed.entry.logprob for piece in pieces for placed in piece.logprobs if placed.entry]
    return sum(values) / max(1, len(values))
