"""Text to token ids and back, piece by piece while tokens arrive."""

import asyncio
import functools
from collections.abc import Sequence
from pathlib import Path

from checkpoints.tokenizer_folder import load_tokenizer
from engine.token_bytes import TokenBytes
from heads.texts import find_delimiters
from server.detokenizer import REPLACEMENT, ByteDetokenizer, Detokenizer, WindowDetokenizer
from server.errors import invalid_request
from server.vocabulary import Vocabulary

CONTEXT_TOKENS = 8
LONG_TEXT_CHARS = 10_000
"""Texts beyond this are encoded in a thread: the event loop must not wait for them."""


class Tokenizer:
    """The tokenizer of one checkpoint.

    Args:
        folder: holds tokenizer.json, or vocab.json and merges.txt, or tokenizer.model; and perhaps tokenizer_config.json.

    Attributes:
        config: tokenizer_config.json, with the special tokens that other files name.

    Raises:
        CheckpointError: these files are missing, unreadable or corrupt.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer, self.config = load_tokenizer(folder)
        self._vocabulary = Vocabulary(self._tokenizer)

    @property
    def vocab_size(self) -> int:
        """Token ids run from 0 to this, less one."""
        return self._vocabulary.size

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`; special tokens written out in it are recognised as such."""
        [token_ids] = self._encode_all([text], add_special_tokens=add_special_tokens)
        return token_ids

    async def encode_async(
        self, texts: Sequence[str], *, add_special_tokens: bool, param: str = "prompt"
    ) -> list[list[int]]:
        """The same for several texts, without holding up the event loop where they are long.

        Args:
            texts: what to encode.
            add_special_tokens: let the tokenizer add what it adds to a text.
            param: the request's field that they come from.

        Raises:
            APIError: a text cannot be written as UTF-8 (400).
        """
        if not all(map(_is_encodable, texts)):
            message = "a text holds half of a surrogate pair, which is no character"
            raise invalid_request(message, code="invalid_value", param=param)
        if sum(map(len, texts)) < LONG_TEXT_CHARS:
            return self._encode_all(texts, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(self._encode_all, texts, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        """The text of `token_ids`."""
        if not self._vocabulary.is_bytewise:
            known = [token_id for token_id in token_ids if 0 <= token_id < self.vocab_size]
            return self._tokenizer.decode(known, skip_special_tokens=skip_special_tokens)
        detokenizer = self.detokenizer(skip_special_tokens=skip_special_tokens)
        return "".join([*map(detokenizer.feed, token_ids), detokenizer.flush()])

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for, wherever it stands; one token may be part of a character only."""
        return self._vocabulary.bytes_of(token_id)

    @functools.cached_property
    def all_token_bytes(self) -> TokenBytes:
        """The whole vocabulary, as grammars need it; takes a fraction of a second the first time."""
        return TokenBytes([*map(self.token_bytes, range(self.vocab_size))], self._vocabulary.special_token_ids)

    @property
    def is_bytewise(self) -> bool:
        """A text is the bytes of its tokens, joined: grammars need that."""
        return self._vocabulary.is_bytewise

    def special_token_id(self, text: str) -> int | None:
        """The special token that is written like this."""
        return self._vocabulary.special_token_id(text)

    def token_text(self, token_id: int) -> str:
        """The same as text, with U+FFFD for parts of characters."""
        return self.token_bytes(token_id).decode(errors="replace")

    def find_delimiters(self, token_ids: Sequence[int]) -> list[bool]:
        """Which tokens are punctuation, line ends or special tokens, as `headcount heads inspect` counts them."""
        return find_delimiters(self._tokenizer, token_ids)

    def token_id(self, token: str) -> int | None:
        """The id of a token that is written just so in the vocabulary; None where there is none."""
        return self._tokenizer.token_to_id(token)

    def special_token(self, name: str) -> str:
        """`bos_token`, `eos_token` … of tokenizer_config.json; empty where it has none."""
        token = self.config.get(name) or ""
        return str(token.get("content") or "") if isinstance(token, dict) else str(token)

    def detokenizer(
        self, *, skip_special_tokens: bool, before: Sequence[int] = (), kept_token_ids: frozenset[int] = frozenset()
    ) -> Detokenizer:
        """A fresh incremental decoder.

        Args:
            skip_special_tokens: leave special tokens out of the text.
            before: the tokens that come before. SentencePiece tokenizers drop the blank in front of a text's first word,
                but not in front of a continuation.
            kept_token_ids: special tokens that are not left out, where tokens are bytes.
        """
        if self._vocabulary.is_bytewise:
            begins_text = not any(self._has_text(i, skip_special_tokens=skip_special_tokens) for i in before)
            drops_blank = begins_text and self._vocabulary.drops_first_blank
            return ByteDetokenizer(
                self._vocabulary,
                skip_special_tokens=skip_special_tokens,
                drops_first_blank=drops_blank,
                kept_token_ids=kept_token_ids,
            )
        context = list(before[-CONTEXT_TOKENS:])
        decode = functools.partial(self.decode, skip_special_tokens=skip_special_tokens)
        if decode(context).endswith(REPLACEMENT):
            context = []  # half a character: it would come out again
        return WindowDetokenizer(decode, context)

    def _encode_all(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        # The batch call skips what we do not use (offsets), lets other threads run, and is several times as fast.
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def _has_text(self, token_id: int, *, skip_special_tokens: bool) -> bool:
        is_skipped = skip_special_tokens and self._vocabulary.is_special(token_id)
        return not is_skipped and bool(self._vocabulary.bytes_of(token_id))


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
