"""POST /v1/completions: the request body."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from engine.request import MAX_LOGPROBS
from server.protocol.generation import GenerationBody

TokenIds = Annotated[list[int], Field(fail_fast=True)]
Prompt = str | TokenIds | Annotated[list[str], Field(fail_fast=True)] | Annotated[list[TokenIds], Field(fail_fast=True)]


class CompletionBody(GenerationBody):
    """A prompt to go on with."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {**GenerationBody.unsupported, "suffix": (), "best_of": (1,)}

    prompt: Prompt
    """A text, several, a list of token ids, or several such lists."""
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    """Log-probabilities of the output tokens, with this many most probable ones each."""
    echo: bool = False
    """Put the prompt before the output; with `logprobs`, its tokens' log-probabilities too."""
    add_special_tokens: bool = True
    """Let the tokenizer add what it adds to a text (a beginning-of-sequence token, say)."""

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)  # type: ignore[arg-type]
