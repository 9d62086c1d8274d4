"""Responses of /v1/chat/completions."""

import secrets
import string

import msgspec

from engine.request import FinishReason, TokenLogprobs
from server.generation import Choice
from server.protocol.responses import (
    Answer,
    ChatChoice,
    ChatChunkChoice,
    ChatLogprobs,
    ChatMessageOut,
    CompletionChoice,
    ContentLogprob,
    FunctionCallOut,
    ToolCallOut,
    TopLogprob,
)
from server.replies.reply import MessagePart, Reply, ReplyFormat
from server.replies.tools.parser import CallPart
from server.served_model import ServedModel
from server.text_assembler import Piece
from server.tokenizer import Tokenizer
from server.writers.base import Writer

LONG_ID_CHARS = 16


class ChatWriter(Writer):
    """Chat completions, whole or in chunks.

    Args:
        model: answers.
        choices: all outputs.
        num_choices_per_prompt: n.
        num_prompt_top: what `prompt_logprobs` asked for.
        returns_token_ids: give the ids of prompt and output beside the text.
        reply_format: how to read what the model writes.
    """

    object_whole = "chat.completion"
    object_chunk = "chat.completion.chunk"

    def __init__(
        self,
        model: ServedModel,
        choices: list[Choice],
        *,
        num_choices_per_prompt: int,
        num_prompt_top: int | None,
        returns_token_ids: bool,
        reply_format: ReplyFormat,
    ) -> None:
        super().__init__(
            model,
            choices,
            num_choices_per_prompt=num_choices_per_prompt,
            num_prompt_top=num_prompt_top,
            returns_token_ids=returns_token_ids,
        )
        self._replies = [Reply(reply_format) for _ in choices]
        self._id_chars = reply_format.call_id_chars

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
        added = self._replies[choice.index].feed(piece.text, is_last=piece.finish_reason is not None)
        part = ChatChunkChoice(choice.index, self._delta(added), self._logprobs(choice, piece))
        if self._num_prompt_top is not None and choice.index not in self._has_begun:
            part.prompt_logprobs = self._prompt_logprobs(choice)
        if self._returns_token_ids:
            part.token_ids = piece.token_ids
        return part

    def _finish_choice(self, choice: Choice, finish_reason: str) -> ChatChunkChoice:
        reason = self._finish_reason(choice, finish_reason)
        return ChatChunkChoice(choice.index, ChatMessageOut(), finish_reason=reason)

    def _whole_choice(self, choice: Choice, piece: Piece) -> ChatChoice:
        message = self._message(self._replies[choice.index].feed(piece.text, is_last=True))
        reason = self._finish_reason(choice, piece.finish_reason)
        whole = ChatChoice(choice.index, message, self._logprobs(choice, piece), reason)
        if self._num_prompt_top is not None:
            whole.prompt_logprobs = self._prompt_logprobs(choice)
        if self._returns_token_ids:
            whole.token_ids = piece.token_ids
        return whole

    def _is_worth_sending(self, part: CompletionChoice | ChatChunkChoice) -> bool:
        has_content = isinstance(part, ChatChunkChoice) and part.delta != ChatMessageOut()
        has_logprobs = isinstance(part.logprobs, ChatLogprobs) and bool(part.logprobs.content)
        return has_content or has_logprobs or bool(part.token_ids) or part.prompt_logprobs is not msgspec.UNSET

    def _delta(self, added: MessagePart) -> ChatMessageOut:
        delta = ChatMessageOut()
        if added.content:
            delta.content = added.content
        if added.reasoning:
            delta.reasoning_content = added.reasoning
        if added.calls:
            delta.tool_calls = [self._call(part, index=part.call_idx) for part in added.calls]
        return delta

    def _message(self, reply: MessagePart) -> ChatMessageOut:
        message = self._delta(reply)
        message.role = "assistant"
        message.content = reply.content or (None if reply.calls else "")
        if reply.calls:
            message.tool_calls = [self._call(part, index=msgspec.UNSET) for part in reply.calls]
        return message

    def _call(self, part: CallPart, *, index: int | msgspec.UnsetType) -> ToolCallOut:
        if part.name is None:
            return ToolCallOut(FunctionCallOut(part.arguments), index)
        function = FunctionCallOut(part.arguments, part.name)
        return ToolCallOut(function, index, _new_call_id(self._id_chars), "function")

    def _finish_reason(self, choice: Choice, finish_reason: str | None) -> str | None:
        """A reply that calls tools ends for that reason, unless it was cut off."""
        has_called = self._replies[choice.index].has_calls and finish_reason == FinishReason.STOP
        return "tool_calls" if has_called else finish_reason

    def _logprobs(self, choice: Choice, piece: Piece) -> ChatLogprobs | None:
        if choice.request.sampling_params.logprobs is None:
            return None
        return ChatLogprobs(
            [_content_logprob(self._model.tokenizer, placed.entry) for placed in piece.logprobs if placed.entry]
        )


def _new_call_id(num_chars: int) -> str:
    """Letters and digits, as the strictest of chat templates ask for; only long ones have OpenAI's prefix."""
    characters = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(num_chars))
    return characters if num_chars < LONG_ID_CHARS else f"call_{characters}"


def _content_logprob(tokenizer: Tokenizer, entry: TokenLogprobs) -> ContentLogprob:
    tops = zip(entry.top_token_ids, entry.top_logprobs, strict=True)
    chosen = _top(tokenizer, entry.token_id, entry.logprob)
    return ContentLogprob(chosen.token, chosen.logprob, chosen.bytes, [_top(tokenizer, i, value) for i, value in tops])


def _top(tokenizer: Tokenizer, token_id: int, logprob: float) -> TopLogprob:
    data = tokenizer.token_bytes(token_id)
    return TopLogprob(data.decode(errors="replace"), logprob, list(data))
