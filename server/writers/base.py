"""What the writers of both routes share."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from engine.request import TokenLogprobs
from server.generation import Choice, Event, usage_of
from server.protocol.responses import Answer, ChatChoice, ChatChunkChoice, CompletionChoice, PromptLogprobs, Usage
from server.request_id import response_id
from server.sampling import ready_info
from server.served_model import ServedModel
from server.text_assembler import Piece


class Writer(ABC):
    """Turns the events of a request into its response.

    Args:
        model: answers.
        choices: all outputs.
        num_choices_per_prompt: n.
        num_prompt_top: how many most probable tokens `prompt_logprobs` asked for; None: not asked.
        returns_token_ids: give the ids of prompt and output beside the text.
    """

    object_whole: str
    object_chunk: str

    def __init__(
        self,
        model: ServedModel,
        choices: list[Choice],
        *,
        num_choices_per_prompt: int,
        num_prompt_top: int | None,
        returns_token_ids: bool = False,
    ) -> None:
        self.choices = choices
        self._model = model
        self._num_choices_per_prompt = num_choices_per_prompt
        self._num_prompt_top = num_prompt_top
        self._returns_token_ids = returns_token_ids
        self._created = int(time.time())
        self._id = response_id(choices[0].request.request_id)
        self._has_begun: set[int] = set()

    def close(self) -> None:
        """End all choices; those that still run are aborted."""
        for choice in self.choices:
            choice.close()

    def opening(self) -> list[Answer]:
        """Chunks to send before any token."""
        return []

    def chunks(self, event: Event) -> list[Answer]:
        """What an event adds to a stream: a chunk for its text, and a last one with the finish reason alone."""
        piece, answers = event.piece, []
        part = self._chunk_choice(event.choice, piece)
        if self._is_worth_sending(part):
            self._has_begun.add(event.choice.index)
            answers.append(self._answer(self.object_chunk, [part]))
        if piece.finish_reason is not None:
            answers.append(self._answer(self.object_chunk, [self._finish_choice(event.choice, piece.finish_reason)]))
        return answers

    def whole(self, pieces: dict[int, list[Piece]]) -> Answer:
        """The response that does not stream.

        Args:
            pieces: all pieces of each choice, by its index.
        """
        choices = [self._whole_choice(choice, _joined(pieces[choice.index])) for choice in self.choices]
        answer = self._answer(self.object_whole, choices)
        answer.usage = self._usage()
        return answer

    def usage_chunk(self) -> Answer:
        """The last chunk: no choices, the usage."""
        answer = self._answer(self.object_chunk, [])
        answer.usage = self._usage()
        return answer

    def add_usage(self, answer: Answer, *, is_known: bool) -> None:
        """Give a chunk the usage so far, or null where only the last chunk tells it."""
        answer.usage = self._usage() if is_known else None

    @abstractmethod
    def _chunk_choice(self, choice: Choice, piece: Piece) -> CompletionChoice | ChatChunkChoice: ...

    @abstractmethod
    def _finish_choice(self, choice: Choice, finish_reason: str) -> CompletionChoice | ChatChunkChoice: ...

    @abstractmethod
    def _whole_choice(self, choice: Choice, piece: Piece) -> CompletionChoice | ChatChoice: ...

    @abstractmethod
    def _is_worth_sending(self, part: CompletionChoice | ChatChunkChoice) -> bool: ...

    def _usage(self) -> Usage:
        return usage_of(self.choices, self._num_choices_per_prompt, ready_info(self._model).geometry)

    def _answer(self, kind: str, choices: Sequence[CompletionChoice | ChatChoice | ChatChunkChoice]) -> Answer:
        return Answer(id=self._id, object=kind, created=self._created, model=self._model.name, choices=choices)

    def _prompt_logprobs(self, choice: Choice) -> PromptLogprobs:
        """`prompt_logprobs` as the field of that name asks for it."""
        return [None, *(self._prompt_entry(entry) for entry in choice.prompt_logprobs)]

    def _prompt_entry(self, entry: TokenLogprobs) -> dict[str, object]:
        ids, values = entry.top_token_ids[: self._num_prompt_top], entry.top_logprobs[: self._num_prompt_top]
        found = {entry.token_id: entry.logprob, **dict(zip(ids, values, strict=True))}
        text = self._model.tokenizer.token_text
        return {str(i): {"logprob": logprob, "decoded_token": text(i)} for i, logprob in found.items()}


def _joined(pieces: list[Piece]) -> Piece:
    return Piece(
        "".join(piece.text for piece in pieces),
        [entry for piece in pieces for entry in piece.logprobs],
        pieces[-1].finish_reason,
        [token_id for piece in pieces for token_id in piece.token_ids],
    )
