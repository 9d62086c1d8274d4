"""Tokens become text as they arrive; never half a character."""

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable

from server.vocabulary import Vocabulary

REPLACEMENT = "\ufffd"
MAX_PENDING_TOKENS = 16
"""No character takes this many tokens: what is still incomplete then is no text."""


class Detokenizer(ABC):
    """Decodes one text, token by token. What it gives, joined, is the whole text, decoded at once."""

    @abstractmethod
    def feed(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""

    @abstractmethod
    def flush(self) -> str:
        """What is left at the end: an incomplete character comes out as U+FFFD."""

    @property
    @abstractmethod
    def is_within_character(self) -> bool:
        """True where the last token left a character incomplete."""


class ByteDetokenizer(Detokenizer):
    """For vocabularies whose tokens are bytes. At most three bytes wait for the rest of their character.

    Args:
        vocabulary: says what each token stands for.
        skip_special_tokens: leave special tokens out of the text.
        drops_first_blank: leave out a blank that the text begins with.
        kept_token_ids: special tokens that are not left out.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        skip_special_tokens: bool,
        drops_first_blank: bool,
        kept_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        self._vocabulary = vocabulary
        self._skip_special_tokens = skip_special_tokens
        self._drops_first_blank = drops_first_blank
        self._kept_token_ids = kept_token_ids
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """See Detokenizer."""
        is_skipped = self._skip_special_tokens and token_id not in self._kept_token_ids
        if is_skipped and self._vocabulary.is_special(token_id):
            return ""
        text = self._decoder.decode(self._vocabulary.bytes_of(token_id))
        if self._drops_first_blank and text:
            self._drops_first_blank = False
            return text.removeprefix(" ")
        return text

    def flush(self) -> str:
        """See Detokenizer."""
        return self._decoder.decode(b"", final=True)

    @property
    def is_within_character(self) -> bool:
        """See Detokenizer."""
        return bool(self._decoder.getstate()[0])


class WindowDetokenizer(Detokenizer):
    """For any other tokenizer: decodes the newest tokens together with those before them, and gives the difference.

    Args:
        decode: gives the text of token ids.
        before: tokens before the text; they are not part of it.
    """

    def __init__(self, decode: Callable[[list[int]], str], before: list[int]) -> None:
        self._decode = decode
        self._tail = before
        self._pending: list[int] = []

    def feed(self, token_id: int) -> str:
        """See Detokenizer."""
        self._pending.append(token_id)
        text = self._new_text()
        if text.endswith(REPLACEMENT) and len(self._pending) < MAX_PENDING_TOKENS:
            return ""
        if text:  # a token without text joins the next ones: it may still say how they are written
            self._tail, self._pending = self._pending, []
        else:
            self._pending = self._pending[-MAX_PENDING_TOKENS:]
        return text

    def flush(self) -> str:
        """See Detokenizer."""
        text = self._new_text()
        self._tail, self._pending = [], []
        return text

    @property
    def is_within_character(self) -> bool:
        """See Detokenizer."""
        return self._new_text().endswith(REPLACEMENT)

    def _new_text(self) -> str:
        return self._decode(self._tail + self._pending)[len(self._decode(self._tail)) :]
