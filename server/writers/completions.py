"""Responses of /v1/completions."""

import msgspec

from engine.request import TokenLogprobs
from server.generation import Choice
from server.protocol.responses import ChatChunkChoice, CompletionChoice, CompletionLogprobs
from server.served_model import ServedModel
from server.text_assembler import Piece
from server.writers.base import Writer


class CompletionWriter(Writer):
    """Completions, whole or in chunks.

    Args:
        model: answers.
        choices: all outputs.
        num_choices_per_prompt: n.
        num_prompt_top: what `prompt_logprobs` asked for.
        echoes: the text to put before each choice, by index; empty without `echo`.
    """

    id_prefix = "cmpl"
    object_whole = "text_completion"
    object_chunk = "text_completion"

    def __init__(
        self,
        model: ServedModel,
        choices: list[Choice],
        *,
        num_choices_per_prompt: int,
        num_prompt_top: int | None,
        echoes: dict[int, str],
    ) -> None:
        super().__init__(model, choices, num_choices_per_prompt=num_choices_per_prompt, num_prompt_top=num_prompt_top)
        self._echoes = echoes
        self._text_offsets = dict.fromkeys((choice.index for choice in choices), 0)

    def _chunk_choice(self, choice: Choice, piece: Piece) -> CompletionChoice:
        is_first = choice.index not in self._has_begun
        echo = self._echoes.get(choice.index, "") if is_first else ""
        part = CompletionChoice(choice.index, echo + piece.text, self._logprobs(choice, piece, is_first=is_first))
        if self._num_prompt_top is not None and is_first:
            part.prompt_logprobs = self._prompt_logprobs(choice)
        return part

    def _finish_choice(self, choice: Choice, finish_reason: str) -> CompletionChoice:
        return CompletionChoice(choice.index, "", finish_reason=finish_reason)

    def _whole_choice(self, choice: Choice, piece: Piece) -> CompletionChoice:
        whole = self._chunk_choice(choice, piece)
        whole.finish_reason = piece.finish_reason
        return whole

    def _is_worth_sending(self, part: CompletionChoice | ChatChunkChoice) -> bool:
        has_text = isinstance(part, CompletionChoice) and bool(part.text)
        has_logprobs = isinstance(part.logprobs, CompletionLogprobs) and bool(part.logprobs.tokens)
        return has_text or has_logprobs or part.prompt_logprobs is not msgspec.UNSET

    def _logprobs(self, choice: Choice, piece: Piece, *, is_first: bool) -> CompletionLogprobs | None:
        num_top = choice.request.sampling_params.logprobs
        if num_top is None:
            return None
        entries: list[tuple[int, TokenLogprobs | None]] = []
        if is_first and choice.index in self._echoes:
            entries.append((choice.request.prompt_token_ids[0], None))
            entries += [(entry.token_id, entry) for entry in choice.prompt_logprobs]
        entries += [(entry.token_id, entry) for entry in piece.logprobs]
        result = CompletionLogprobs()
        for token_id, entry in entries:
            self._append(result, choice.index, token_id, entry, num_top)
        return result

    def _append(
        self, result: CompletionLogprobs, index: int, token_id: int, entry: TokenLogprobs | None, num_top: int
    ) -> None:
        text = self._model.tokenizer.token_text(token_id)
        result.tokens.append(text)
        result.text_offset.append(self._text_offsets[index])
        self._text_offsets[index] += len(text)
        result.token_logprobs.append(entry.logprob if entry else None)
        result.top_logprobs.append(self._tops(entry, num_top) if entry else None)

    def _tops(self, entry: TokenLogprobs, num_top: int) -> dict[str, float]:
        """The most probable tokens and the chosen one. Tokens with one text (parts of characters) share an entry."""
        ids, values = entry.top_token_ids[:num_top], entry.top_logprobs[:num_top]
        pairs = [*zip(ids, values, strict=True), (entry.token_id, entry.logprob)]
        tops: dict[str, float] = {}
        for token_id, value in pairs:
            tops.setdefault(self._model.tokenizer.token_text(token_id), value)
        return tops
