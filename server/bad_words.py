"""Bad words as token ids: each in every spelling that it has as a part of a text."""

from collections.abc import Sequence

from server.tokenizer import Tokenizer

MAX_BAD_WORDS = 64
MAX_BAD_WORD_CHARS = 64
LINE_BREAK = "\n"


def spell_bad_words(words: Sequence[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Token ids of every spelling of every word: as a text begins with it, behind a blank, and in the middle of a text.

    A model that spells a word in another way than its tokenizer does is not kept from it.

    Args:
        words: at most MAX_BAD_WORDS, of at most MAX_BAD_WORD_CHARS characters.
        tokenizer: the model's.
    """
    spellings = (spelling for word in words for spelling in _spellings(word, tokenizer))
    return tuple(dict.fromkeys(spelling for spelling in spellings if spelling))


def _spellings(word: str, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    bare, after_blank = (tokenizer.encode(text, add_special_tokens=False) for text in (word, f" {word}"))
    # Tokenizers that begin every text with a blank show only behind another text how the word looks without one.
    before, within = (tokenizer.encode(text, add_special_tokens=False) for text in (LINE_BREAK, LINE_BREAK + word))
    found = [tuple(bare), tuple(after_blank)]
    return [*found, tuple(within[len(before) :])] if within[: len(before)] == before else found
