"""POST /v1/completions: the request body."""

from typing import Annotated

from pydantic import Field

from engine.request import MAX_LOGPROBS
from server.protocol.generation import GenerationBody

TokenIds = Annotated[list[int], Field(fail_fast=True)]
Prompt = str | TokenIds | Annotated[list[str], Field(fail_fast=True)] | Annotated[list[TokenIds], Field(fail_fast=True)]


class CompletionBody(GenerationBody):
    """A prompt to go on with."""

    prompt: Prompt
    """A text, several, a list of token ids, or several such lists."""
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    """Log-probabilities of the output tokens, with this many most probable ones each."""
    best_of: int | None = Field(default=None, ge=1)
    """Make this many choices for each prompt, and give the n whose tokens are most probable on average."""
    suffix: str | None = None
    """The text behind the output, for models that were trained to fill a gap."""
    echo: bool = False
    """Put the prompt before the output; with `logprobs`, its tokens' log-probabilities too."""
    add_special_tokens: bool = True
    """Let the tokenizer add what it adds to a text (a beginning-of-sequence token, say)."""

    @property
    def num_choices_per_prompt(self) -> int:
        """See GenerationBody."""
        return self.n if self.best_of is None else self.best_of

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)  # type: ignore[arg-type]
