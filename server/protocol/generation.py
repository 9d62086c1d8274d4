"""The fields that completions and chat completions share."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from engine.request import MAX_ALLOWED_TOKEN_IDS, MAX_LOGIT_BIASES, MAX_LOGPROBS, MAX_STOP_STRINGS
from server.bad_words import MAX_BAD_WORD_CHARS, MAX_BAD_WORDS
from server.protocol.base import RequestBody, WireModel
from server.protocol.structured import ResponseFormat, StructuredOutputs
from server.salts import MAX_CACHE_SALT_CHARS


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half of a surrogate pair, which is no character") from None
    return text


StopString = Annotated[str, Field(min_length=1), AfterValidator(_encodable)]
BadWord = Annotated[StopString, Field(max_length=MAX_BAD_WORD_CHARS)]
TokenIdText = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
"""A token id as JSON has it where it is a name."""
Bias = Annotated[float, Field(ge=-100, le=100)]


class StreamOptions(WireModel):
    """What a stream tells beside the text."""

    include_usage: bool = False
    """End with a chunk that carries the usage and no choices."""

    continuous_usage_stats: bool = False
    """Every chunk carries the usage so far."""


class GenerationBody(RequestBody):
    """How tokens are chosen, when they end, and how they are sent."""

    max_tokens: int | None = Field(default=None, ge=0)
    """Output tokens at most. Unset: 16 for completions, to the end of the context for chat."""
    temperature: float | None = Field(default=None, ge=0)
    """0 is greedy. Unset: the model's default, else 1."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Smallest set of most probable tokens that reaches this probability."""
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    """Only the k most probable tokens; 0 or -1: all."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Only tokens at least this times as probable as the most probable one."""
    bad_words: list[BadWord] = Field(default=[], max_length=MAX_BAD_WORDS)
    """Texts that the output must not hold, as the tokenizer spells them: with a blank before them, or without."""
    allowed_token_ids: list[int] | None = Field(default=None, min_length=1, max_length=MAX_ALLOWED_TOKEN_IDS)
    """Only these tokens come out."""
    truncate_prompt_tokens: Literal[-1] | Annotated[int, Field(ge=1)] | None = None
    """Only the last so many tokens of each prompt; -1: as many as fit the context beside the output."""
    return_token_ids: bool = False
    """Give the ids of prompt and output tokens beside the text."""
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    """The same seed gives the same tokens; choice i of n uses seed + i."""
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Subtracted from the logit of every token that is in the output."""
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Subtracted once for each time a token is in the output."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Above 1: makes tokens of prompt and output less probable."""
    logit_bias: dict[TokenIdText, Bias] | None = Field(default=None, max_length=MAX_LOGIT_BIASES)
    """Token id (as text) -> number added to its logit, -100 to 100."""
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)] | None = None
    """Up to 16 texts that end the output; they are not part of it."""
    stop_token_ids: list[int] = Field(default=[], max_length=MAX_STOP_STRINGS)
    """Token ids that end the output."""
    include_stop_str_in_output: bool = False
    """Keep the stop text or stop token in the output."""
    min_tokens: int = Field(default=0, ge=0)
    """No end before this many tokens."""
    ignore_eos: bool = False
    """Go on past the model's end-of-sequence tokens."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    prompt_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    """Log-probabilities of the prompt's tokens, with this many most probable ones each."""
    response_format: ResponseFormat | None = None
    """The output is a text, a JSON object, or JSON that a schema describes."""
    structured_outputs: StructuredOutputs | None = None
    """The output matches a JSON schema, a regular expression, a list of texts, or a grammar."""
    n: int = Field(default=1, ge=1)
    """Choices for each prompt."""
    stream: bool = False
    """Send tokens as they come (server-sent events)."""
    stream_options: StreamOptions | None = None
    """Only with `stream`."""
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)
    """Lower runs earlier."""
    cache_salt: str | None = Field(default=None, min_length=1, max_length=MAX_CACHE_SALT_CHARS)
    """Share cached prompt blocks only with requests of the same salt (and the same API key)."""
    kv_receipt: bool = False
    """Add to `usage` what the request took of the KV cache, and what it would take as MHA and MQA."""
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds after which the request ends with an error, finished or not. The server has a limit of its own."""
    user: str | None = None
    """Accepted for compatibility; no effect."""
    metadata: dict[str, str] | None = None
    """Accepted for compatibility; no effect."""
    store: bool | None = None
    """Accepted for compatibility; no effect."""
    service_tier: str | None = None
    """Accepted for compatibility; no effect."""

    @property
    def num_choices_per_prompt(self) -> int:
        """Outputs that are computed for each prompt."""
        return self.n

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
