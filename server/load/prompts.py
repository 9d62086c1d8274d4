"""Prompts of ordinary tokens, no two of them alike, so that no prefix is found in a cache."""

import random
from collections.abc import Iterator, Sequence

WORDS = (
    "The quick brown fox jumps over the lazy dog while seven wizards make toxic brew for the evil queen and her"
    " jovial zebra; some people count heads, others measure memory, and a few read every page twice before lunch."
)
"""Its token ids are what prompts are drawn from: ordinary ones, whatever the vocabulary."""


def draw_prompts(token_ids: Sequence[int], shortest: int, longest: int, seed: int) -> Iterator[list[int]]:
    """Prompts without end, of `shortest` to `longest` tokens each; the same seed draws the same ones."""
    draw = random.Random(seed)  # noqa: S311  prompts are no secret
    while True:
        yield draw.choices(token_ids, k=draw.randint(shortest, longest))
