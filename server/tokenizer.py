"""Text to token ids and back, piece by piece while tokens arrive."""

import asyncio
import re
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.decoders import DecodeStream

from checkpoints.errors import CheckpointError
from checkpoints.json_files import read_json_object
from server.errors import invalid_request

REPLACEMENT = "\ufffd"
CONTEXT_TOKENS = 8
MAX_PENDING_TOKENS = 16
LONG_TEXT_CHARS = 10_000
"""Texts beyond this are encoded in a thread: the event loop must not wait for them."""


class Tokenizer:
    """The tokenizer of one checkpoint.

    Args:
        folder: holds tokenizer.json and perhaps tokenizer_config.json.

    Raises:
        CheckpointError: tokenizer.json is missing, unreadable or corrupt.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.exists():
            raise CheckpointError(
                f"{folder} has no tokenizer.json; add the one that belongs to the model (transformers writes it with"
                " AutoTokenizer.from_pretrained(...).save_pretrained(...))"
            )
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{path} is no tokenizer that can be read: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config_path = folder / "tokenizer_config.json"
        self.config: dict[str, Any] = read_json_object(config_path) if config_path.exists() else {}
        self._added_tokens = {i: str(token.content) for i, token in self._tokenizer.get_added_tokens_decoder().items()}
        self._is_byte_level = '"ByteLevel"' in self._tokenizer.to_str().partition('"decoder":')[2]

    @property
    def vocab_size(self) -> int:
        """Token ids run from 0 to this, less one."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`; special tokens written out in it are recognised as such."""
        # The batch call skips what we do not use (offsets), lets other threads run, and is several times as fast.
        [encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids

    async def encode_async(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The same without holding up the event loop for a long text.

        Raises:
            APIError: the text cannot be written as UTF-8 (400).
        """
        if not _is_encodable(text):
            message = "a text holds half of a surrogate pair, which is no character"
            raise invalid_request(message, code="invalid_value", param="prompt")
        if len(text) < LONG_TEXT_CHARS:
            return self.encode(text, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(self.encode, text, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        """The text of `token_ids`."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for, wherever it stands; one token may be part of a character only."""
        if token_id in self._added_tokens:
            return self._added_tokens[token_id].encode()
        token = self._tokenizer.id_to_token(token_id) or ""
        if self._is_byte_level:
            return b"".join(_BYTE_OF.get(char) or char.encode() for char in token)
        if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            return bytes([int(token[3:5], 16)])
        return token.replace("\u2581", " ").encode()

    def token_text(self, token_id: int) -> str:
        """The same as text, with U+FFFD for parts of characters."""
        return self.token_bytes(token_id).decode(errors="replace")

    def special_token(self, name: str) -> str:
        """`bos_token`, `eos_token` … of tokenizer_config.json; empty where it has none."""
        token = self.config.get(name) or ""
        return token["content"] if isinstance(token, dict) else str(token)

    def detokenizer(self, *, skip_special_tokens: bool, before: list[int] | None = None) -> "Detokenizer":
        """A fresh incremental decoder.

        Args:
            skip_special_tokens: leave special tokens out of the text.
            before: the tokens that come before. SentencePiece tokenizers drop the blank in front of a text's first word,
                so a continuation needs them; byte-level ones do not.
        """
        context = [] if self._is_byte_level else (before or [])[-CONTEXT_TOKENS:]
        if self.decode(context, skip_special_tokens=skip_special_tokens).endswith(REPLACEMENT):
            context = []  # half a character: it would come out again
        return Detokenizer(self._tokenizer, context, skip_special_tokens=skip_special_tokens)


class Detokenizer:
    """Turns tokens into text as they arrive; never gives half a character."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, context: list[int], *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._tail = context
        self._pending: list[int] = []
        self._stream = self._fresh_stream()

    def feed(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        self._pending.append(token_id)
        text = self._stream.step(self._tokenizer, token_id)
        if text is not None:
            self._tail, self._pending = self._pending, []
            return text
        if len(self._pending) < MAX_PENDING_TOKENS:
            return ""
        # No character takes this many tokens: these bytes are no text, and the stream decodes all of them each time.
        text = self.flush()
        self._stream = self._fresh_stream()
        return text

    def flush(self) -> str:
        """What is left at the end: an incomplete character comes out as U+FFFD."""
        before = self._decode(self._tail)
        rest = self._decode(self._tail + self._pending)[len(before) :]
        self._tail, self._pending = [], []
        return rest

    def _fresh_stream(self) -> DecodeStream:
        return DecodeStream(ids=self._tail, skip_special_tokens=self._skip_special_tokens)

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skip_special_tokens)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _byte_alphabet() -> dict[str, bytes]:
    """The printable stand-ins of bytes in byte-level BPE vocabularies (Radford et al. 2019): bytes that print stand
    for themselves, the others for the characters from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): bytes([byte]) for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return alphabet | {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
