"""Small tokenizers of the kinds that decoder-only models come with, as their files describe them."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

EOS = "<|end|>"
NON_ASCII = "<｜fin▁é｜>"
LATIN = "señal"
"""An added token of nothing but characters that byte-level vocabularies use as stand-ins for bytes."""


def byte_level() -> Tokenizer:
    """Byte-level BPE (GPT-2, Llama 3, Qwen): every byte is a token."""
    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "hello"), ("Ã", "©")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _add_tokens(tokenizer)
    return tokenizer


def sentencepiece(*, drops_first_blank: bool = True) -> Tokenizer:
    """SentencePiece BPE with byte tokens: Llama 2's decoder, or Gemma's, which keeps the first blank."""
    vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    for token in ["▁", *"helowrdaé", "he", "ll", "hell", "hello", "▁hello"]:
        vocab[token] = len(vocab)
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("▁", "hello")]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>"))
    steps = [normalizers.Prepend("▁")] if drops_first_blank else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    unspell: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*unspell, decoders.Strip(" ", 1, 0)] if drops_first_blank else unspell)
    _add_tokens(tokenizer)
    return tokenizer


def metaspace() -> Tokenizer:
    """SentencePiece without byte tokens, by the library's Metaspace."""
    vocab = {"<unk>": 0}
    for token in ["▁", *"helowrda", "he", "ll", "hell", "hello", "▁hello", "<0x41>"]:
        vocab[token] = len(vocab)
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("▁", "hello")]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    _add_tokens(tokenizer)
    return tokenizer


def word_pieces() -> Tokenizer:
    """A kind that is none of ours: only its own decoder knows how its tokens join."""
    vocab = {token: i for i, token in enumerate(["[UNK]", "hello", "world", "##s", "##ly", "!"])}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    _add_tokens(tokenizer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, config: dict[str, Any] | None = None) -> Path:
    """Write the files of a checkpoint's tokenizer."""
    tokenizer.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _add_tokens(tokenizer: Tokenizer) -> None:
    tokenizer.add_special_tokens([AddedToken(EOS, special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken(NON_ASCII, normalized=False), AddedToken(LATIN, normalized=False)])
