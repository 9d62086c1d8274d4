"""What generation answers, in OpenAI's shapes. msgspec encodes them: at many streams each token is one chunk."""

from collections.abc import Sequence
from typing import Any

import msgspec


class PromptTokensDetails(msgspec.Struct):
    """Where prompt tokens came from."""

    cached_tokens: int = 0


class KVReceiptOut(msgspec.Struct):
    """What a request took of the KV cache when it ended; over all choices, so a block that they share counts for each."""

    blocks: int
    bytes: int
    """Of those blocks."""
    peak_bytes: int
    """The most that it held in a step: more than `bytes` where a sliding window gave blocks back."""
    cached_tokens: int
    """Prompt tokens whose blocks were there already."""
    wasted_slots: int
    """Slots of the last block that hold no token; each group of layers has such a block."""
    mha_bytes: int
    """What the same tokens would take if each query head had a KV head of its own."""
    mqa_bytes: int
    """And if all query heads shared one."""


class Usage(msgspec.Struct):
    """Tokens in and out; a prompt counts once, whatever n is."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    kv_receipt: KVReceiptOut | msgspec.UnsetType = msgspec.UNSET


class CompletionLogprobs(msgspec.Struct):
    """Log-probabilities as /v1/completions gives them: parallel lists."""

    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []
    text_offset: list[int] = []


class TopLogprob(msgspec.Struct):
    """One token and its log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(msgspec.Struct):
    """One output token and the most probable ones at its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    """Log-probabilities as /v1/chat/completions gives them."""

    content: list[ContentLogprob]


PromptLogprobs = list[dict[str, Any] | None]
"""Per prompt token: token id (as text) -> {logprob, decoded_token}; None for the first, which nothing predicts."""


class CompletionChoice(msgspec.Struct):
    """One output of /v1/completions, whole or in part."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class FunctionCallOut(msgspec.Struct):
    """A function and its arguments, or more of these."""

    arguments: str
    """JSON."""
    name: str | msgspec.UnsetType = msgspec.UNSET


class ToolCallOut(msgspec.Struct):
    """A call of a tool, or what a chunk adds to one."""

    function: FunctionCallOut
    index: int | msgspec.UnsetType = msgspec.UNSET
    """In chunks: which call."""
    id: str | msgspec.UnsetType = msgspec.UNSET
    type: str | msgspec.UnsetType = msgspec.UNSET


class ChatMessageOut(msgspec.Struct):
    """The assistant's message, or the part of it that a chunk adds."""

    role: str | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType | None = msgspec.UNSET
    """Null in a message that only calls tools."""
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCallOut] | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct):
    """One output of /v1/chat/completions."""

    index: int
    message: ChatMessageOut
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class ChatChunkChoice(msgspec.Struct):
    """A part of an output of /v1/chat/completions."""

    index: int
    delta: ChatMessageOut
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class Answer(msgspec.Struct):
    """A whole response, or one chunk of a stream."""

    id: str
    object: str
    created: int
    model: str
    choices: Sequence[CompletionChoice | ChatChoice | ChatChunkChoice]
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
