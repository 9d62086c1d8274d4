"""Infilling: a model that was trained to fill a gap gets the texts before and behind it, between special tokens of its own."""

from typing import NamedTuple

from server.errors import invalid_request
from server.tokenizer import Tokenizer


class InfillForm(NamedTuple):
    """How a family of models writes a gap; the output goes on behind `last`.

    Attributes:
        first: token before the first text.
        between: token before the second text.
        last: token behind both; empty where there is none.
        begins_with_suffix: the text behind the gap comes first.
    """

    first: str
    between: str
    last: str
    begins_with_suffix: bool = False


FORMS = (
    # Qwen2.5-Coder, CodeGemma (arXiv:2406.11409), Granite 4
    InfillForm("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    # StarCoder (arXiv:2305.06161), Granite code
    InfillForm("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    # SantaCoder (arXiv:2301.03988)
    InfillForm("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    # Code Llama (arXiv:2308.12950)
    InfillForm("▁<PRE>", "▁<SUF>", "▁<MID>"),
    # DeepSeek-Coder (arXiv:2401.14196): its second token stands where the gap is
    InfillForm("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001
    # Codestral
    InfillForm("[SUFFIX]", "[PREFIX]", "", begins_with_suffix=True),
)


def find_infill_form(tokenizer: Tokenizer) -> InfillForm | None:
    """How the tokenizer's model writes a gap; None where its vocabulary has no tokens for it."""
    for form in FORMS:
        if all(tokenizer.token_id(token) is not None for token in form[:3] if token):
            return form
    return None


async def encode_infill(
    tokenizer: Tokenizer, prompt: str | list[int], suffix: str, *, add_special_tokens: bool
) -> list[int]:
    """Token ids of a prompt whose gap is to be filled.

    Args:
        tokenizer: of the model.
        prompt: the text before the gap, or its token ids.
        suffix: the text behind it.
        add_special_tokens: begin with what the tokenizer begins a text with.

    Raises:
        APIError: the model has no tokens for a gap, or a text cannot be written as UTF-8 (400).
    """
    form = find_infill_form(tokenizer)
    if form is None:
        message = "suffix is not supported by this model: its vocabulary has no tokens to mark a gap"
        raise invalid_request(message, code="unsupported_field", param="suffix")
    [behind] = await tokenizer.encode_async([suffix], add_special_tokens=False, param="suffix")
    opening = tokenizer.encode("", add_special_tokens=True) if add_special_tokens and isinstance(prompt, str) else []
    if isinstance(prompt, str):
        [prompt] = await tokenizer.encode_async([prompt], add_special_tokens=False)
    texts = (behind, prompt) if form.begins_with_suffix else (prompt, behind)
    marks = [[tokenizer.token_id(token)] if token else [] for token in form[:3]]
    first, between, last = ([i for i in mark if i is not None] for mark in marks)
    return [*opening, *first, *texts[0], *between, *texts[1], *last]
