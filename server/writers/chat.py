"""Responses of /v1/chat/completions."""

import msgspec

from engine.request import TokenLogprobs
from server.generation import Choice
from server.protocol.responses import (
    Answer,
    ChatChoice,
    ChatChunkChoice,
    ChatLogprobs,
    ChatMessageOut,
    CompletionChoice,
    ContentLogprob,
    TopLogprob,
)
from server.text_assembler import Piece
from server.tokenizer import Tokenizer
from server.writers.base import Writer


class ChatWriter(Writer):
    """Chat completions, whole or in chunks."""

    object_whole = "chat.completion"
    object_chunk = "chat.completion.chunk"

    def opening(self) -> list[Answer]:
        """The role of every choice."""
        opening = ChatMessageOut(role="assistant", content="")
        answers = [self._answer(self.object_chunk, [ChatChunkChoice(choice.index, opening)]) for choice in self.choices]
        self._add_prompt(answers[0])
        return answers

    def whole(self, pieces: dict[int, list[Piece]]) -> Answer:
        """See Writer."""
        answer = super().whole(pieces)
        self._add_prompt(answer)
        return answer

    def _add_prompt(self, answer: Answer) -> None:
        if self._returns_token_ids:
            answer.prompt_token_ids = self.choices[0].request.prompt_token_ids

    def _chunk_choice(self, choice: Choice, piece: Piece) -> ChatChunkChoice:
        part = ChatChunkChoice(choice.index, ChatMessageOut(content=piece.text), self._logprobs(choice, piece))
        if self._num_prompt_top is not None and choice.index not in self._has_begun:
            part.prompt_logprobs = self._prompt_logprobs(choice)
        if self._returns_token_ids:
            part.token_ids = piece.token_ids
        return part

    def _finish_choice(self, choice: Choice, finish_reason: str) -> ChatChunkChoice:
        return ChatChunkChoice(choice.index, ChatMessageOut(), finish_reason=finish_reason)

    def _whole_choice(self, choice: Choice, piece: Piece) -> ChatChoice:
        message = ChatMessageOut(role="assistant", content=piece.text)
        whole = ChatChoice(choice.index, message, self._logprobs(choice, piece), piece.finish_reason)
        if self._num_prompt_top is not None:
            whole.prompt_logprobs = self._prompt_logprobs(choice)
        if self._returns_token_ids:
            whole.token_ids = piece.token_ids
        return whole

    def _is_worth_sending(self, part: CompletionChoice | ChatChunkChoice) -> bool:
        has_content = isinstance(part, ChatChunkChoice) and bool(part.delta.content)
        has_logprobs = isinstance(part.logprobs, ChatLogprobs) and bool(part.logprobs.content)
        return has_content or has_logprobs or bool(part.token_ids) or part.prompt_logprobs is not msgspec.UNSET

    def _logprobs(self, choice: Choice, piece: Piece) -> ChatLogprobs | None:
        if choice.request.sampling_params.logprobs is None:
            return None
        return ChatLogprobs(
            [_content_logprob(self._model.tokenizer, placed.entry) for placed in piece.logprobs if placed.entry]
        )


def _content_logprob(tokenizer: Tokenizer, entry: TokenLogprobs) -> ContentLogprob:
    tops = zip(entry.top_token_ids, entry.top_logprobs, strict=True)
    chosen = _top(tokenizer, entry.token_id, entry.logprob)
    return ContentLogprob(chosen.token, chosen.logprob, chosen.bytes, [_top(tokenizer, i, value) for i, value in tops])


def _top(tokenizer: Tokenizer, token_id: int, logprob: float) -> TopLogprob:
    data = tokenizer.token_bytes(token_id)
    return TopLogprob(data.decode(errors="replace"), logprob, list(data))
