"""The text that a model is looked at over: read, encoded and cut into windows."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from heads.errors import HeadsError

MAX_TEXT_TOKENS = 16_384
"""More says nothing that these do not, and takes long: every token is computed many times over."""
MIN_WINDOW_TOKENS = 8


def read_text(text: str) -> str:
    """What is in the file of that name; `text` itself where there is no such file.

    Raises:
        HeadsError: the file cannot be read as text.
    """
    try:
        path = Path(text)
        return path.read_text(encoding="utf-8") if path.is_file() else text
    except UnicodeDecodeError:
        raise HeadsError(f"{text} is no UTF-8 text: name a text file, or write the text itself") from None
    except (OSError, ValueError):  # a text may be too long for a name, or hold what no name can
        return text


def cut_windows(token_ids: Sequence[int], window_tokens: int) -> list[list[int]]:
    """Pieces of `window_tokens` tokens, the last one as short as it is; one that is too short to say anything is dropped.

    Raises:
        HeadsError: the text or the window is too short, or the text too long.
    """
    if window_tokens < MIN_WINDOW_TOKENS:
        raise HeadsError(f"the window must be at least {MIN_WINDOW_TOKENS} tokens, got {window_tokens}")
    if len(token_ids) < MIN_WINDOW_TOKENS:
        raise HeadsError(
            f"the text must be at least {MIN_WINDOW_TOKENS} tokens, got {len(token_ids)}: give a longer one"
        )
    if len(token_ids) > MAX_TEXT_TOKENS:
        raise HeadsError(
            f"the text may be at most {MAX_TEXT_TOKENS:,} tokens, got {len(token_ids):,}: give a part of it"
        )
    starts = range(0, len(token_ids), window_tokens)
    windows = [list(token_ids[start : start + window_tokens]) for start in starts]
    return [window for window in windows if len(window) >= MIN_WINDOW_TOKENS]


def find_delimiters(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[bool]:
    """Which tokens are punctuation, line ends or special tokens."""
    special = {token_id for token_id, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    return [token_id in special or _is_delimiter(tokenizer.decode([token_id])) for token_id in token_ids]


def _is_delimiter(text: str) -> bool:
    stripped = text.strip(" \t")
    return bool(stripped) and all(char in "\r\n" or unicodedata.category(char).startswith("P") for char in stripped)
