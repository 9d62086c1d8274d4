"""Small checkpoints with a tokenizer, and changes to their heads."""

from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from engine.checkpoint import Checkpoint
from heads.rewriting import Rewrite, rewrite_checkpoint
from heads.weights import HeadWeights

NUM_WORDS = 101
DELIMITER = 7
TEXT = " ".join(f"w{(13 * i * i + i) % NUM_WORDS}" if i % 5 else "." for i in range(60))
"""60 words of the tokenizer's; every fifth is a full stop."""


def add_tokenizer(folder: Path) -> Path:
    """One token a word: w0, w1, ..., and a full stop."""
    words = {f"w{index}": index for index in range(NUM_WORDS) if index != DELIMITER} | {".": DELIMITER}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def change_heads(source: Path, destination: Path, change: Callable[[int, HeadWeights], HeadWeights]) -> Path:
    """The checkpoint with other weights in its heads, and as many of them."""

    def plan(checkpoint: Checkpoint) -> Rewrite:
        return Rewrite(checkpoint.config, checkpoint.spec, change)

    rewrite_checkpoint(source, destination, plan)
    return destination
