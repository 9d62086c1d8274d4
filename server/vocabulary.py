"""What each token stands for: its bytes, and how bytes join to a text."""

import json
import re
from typing import Any

import tokenizers

BLANK = "\u2581"
"""SentencePiece writes a blank as this."""


class Vocabulary:
    """The bytes of every token of a tokenizer.

    Three kinds of tokenizers cover the decoder-only models: byte-level BPE (its tokens are bytes), and SentencePiece with
    or without byte tokens such as `<0x0A>` (its tokens are text, and some drop the blank in front of a text's first word).
    For these a text is its tokens' bytes, joined, so that no part of it depends on what comes later.

    Args:
        tokenizer: of the tokenizers library.

    Attributes:
        size: token ids run from 0 to this, less one.
        is_bytewise: the tokenizer is of these kinds; else only its own decoder knows how tokens join.
        drops_first_blank: a text that begins with a blank loses it.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._added = {token_id: str(token.content).encode() for token_id, token in added.items()}
        self._special = frozenset(token_id for token_id, token in added.items() if token.special)
        self._bytes: dict[int, bytes] = {}
        # Not the number of tokens: ids may have gaps.
        self.size = max([*tokenizer.get_vocab(with_added_tokens=True).values(), *self._added], default=-1) + 1
        steps = _decoder_steps(tokenizer)
        kinds = tuple(str(step["type"]) for step in steps)
        self._is_byte_level = kinds == ("ByteLevel",)
        self._has_byte_tokens = "ByteFallback" in kinds
        self.is_bytewise = self._is_byte_level or _is_sentencepiece(steps)
        self.drops_first_blank = "Strip" in kinds or any(
            step["type"] == "Metaspace" and step.get("prepend_scheme") != "never" for step in steps
        )

    @property
    def special_token_ids(self) -> list[int]:
        """Tokens that are no text."""
        return sorted(self._special)

    def special_token_id(self, text: str) -> int | None:
        """The special token that is written like this."""
        return next((token_id for token_id in self._special if self._added[token_id] == text.encode()), None)

    def is_special(self, token_id: int) -> bool:
        """True for tokens that are no text, such as the one that ends an output."""
        return token_id in self._special

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that a token stands for, wherever it stands; one token may be part of a character only.

        None for an id that is no token: models have more ids than their tokenizers, and clients send any number.
        """
        if not 0 <= token_id < self.size:
            return b""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = self._look_up(token_id)
        return found

    def _look_up(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id]  # written as it is, in no alphabet
        token = self._tokenizer.id_to_token(token_id) or ""
        if self._is_byte_level:
            in_alphabet = all(char in _BYTE_OF for char in token)
            return bytes(_BYTE_OF[char] for char in token) if in_alphabet else token.encode()
        if self._has_byte_tokens and re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            return bytes([int(token[3:5], 16)])
        return token.replace(BLANK, " ").encode()


def _decoder_steps(tokenizer: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """The tokenizer's decoder as its file describes it, one entry a step; empty where it has none."""
    if tokenizer.decoder is None:
        return []
    description: dict[str, Any] = json.loads(tokenizer.decoder.__getstate__())
    steps: list[dict[str, Any]] = description.get("decoders", [description])
    return steps


def _is_sentencepiece(steps: list[dict[str, Any]]) -> bool:
    """True for the decoders that SentencePiece models come with: Metaspace, or the steps of Llama's and Gemma's."""
    first, *others = steps or [{"type": ""}]
    if first["type"] == "Metaspace":
        return not others and first.get("replacement") == BLANK
    if first["type"] != "Replace" or (first.get("pattern"), first.get("content")) != ({"String": BLANK}, " "):
        return False
    fallback, fuse = {"type": "ByteFallback"}, {"type": "Fuse"}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return others in ([fallback, fuse], [fallback, fuse, strip], [fuse], [fuse, strip])


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-ins of bytes in byte-level BPE vocabularies (Radford et al. 2019): bytes that print stand
    for themselves, the others for the characters from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
