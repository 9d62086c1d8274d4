"""Small vocabularies, trained on the spot, in the files that checkpoints ship them in."""

import functools
import io
import json
import random
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

END = "<|endoftext|>"

WORDS = [
    *[
        "the",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "a",
        "lazy",
        "dog",
        "while",
        "seven",
        "naïve",
        "cafés",
        "open",
        "on",
        "Straße",
        "42",
        "at",
        "12:30",
    ],
    *[
        "日本語",
        "の",
        "テキスト",
        "中文",
        "Привет",
        "мир",
        "Ελληνικά",
        "שלום",
        "مرحبا",
        "हिन्दी",
        "한국어",
        "zażółć",
        "gęślą",
        "jaźń",
    ],
    *[
        "def",
        "f(x):",
        "return",
        "{x:",
        "[x",
        "+",
        "1]}",
        "!=",
        "None",
        "//",
        "---",
        "===",
        "...",
        "3.14",
        "1,000",
        "don't",
        "I'LL",
        "ﬁne",
        "①",
        "½",
        "Ａｂｃ",
    ],
]

TEXTS = [
    "",
    " ",
    "   ",
    "hello",
    " hello",
    "  hello  world ",
    "the quick brown fox",
    "tabs\tand\nnewlines\r\n\n\n end",
    "def f(x):\n    return {x: [x + 1]}\n",
    "aaaaaaaaaaa ========== banana ananas",
    "naïve café Straße zażółć gęślą jaźń",
    "日本語のテキスト、中文。한국어",
    "שלום مرحبا हिन्दी",
    "😀 👩‍🚀 🇨🇿 ☂️ 👍🏽",
    "e\u0301 o\u0323\u0302 a\u0308\u0308 \u2008\u0352x",
    "ﬁne Ａｂｃ ① ½ ™ \u00a0\u3000\u200b x",
    "▁literal ▁▁ blanks ▁",
    "<unk> is not <0x41> nor <0x0A>",
    "\x00\x01\x7f\x80 control",
    "\ufffd\U0010ffff\ue000",
    "It's 12345 x1y2 I'LL we'Ve",
]
"""Texts of every kind that tokenizers get wrong."""


LLAMA = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
GEMMA = LLAMA | {
    "add_dummy_prefix": False,
    "user_defined_symbols": ["<mask>", "▁▁", "▁▁▁▁", "\n\n", "<start_of_turn>"],
    "pad_id": 0,
    "eos_id": 1,
    "bos_id": 2,
    "unk_id": 3,
    "pad_piece": "<pad>",
    "eos_piece": "<eos>",
    "bos_piece": "<bos>",
}
SENTENCEPIECE_OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "bpe", **LLAMA},
    "gemma": {"model_type": "bpe", **GEMMA},
    "bpe": {"model_type": "bpe"},
    "bpe-bytes": {"model_type": "bpe", "byte_fallback": True},
    "bpe-symbols": {"model_type": "bpe", "user_defined_symbols": ["<sep>", "▁the", "!="]},
    "unigram": {"model_type": "unigram"},
    "unigram-bytes": {"model_type": "unigram", "byte_fallback": True, "user_defined_symbols": ["<sep>", "\n"]},
    "unigram-llama": {"model_type": "unigram", **LLAMA},
    "unigram-across-words": {"model_type": "unigram", "split_by_whitespace": False},
    "suffix": {"model_type": "unigram", "treat_whitespace_as_suffix": True},
    "control-symbols": {"model_type": "bpe", "control_symbols": ["<ctl>"], "split_digits": True, "byte_fallback": True},
}


@functools.cache
def sentencepiece_model(name: str) -> bytes:
    """A SentencePiece model trained with the options of that name."""
    draw = random.Random(0)
    sentences = [" ".join(draw.choices(WORDS, k=9)) for _ in range(600)]
    content = io.BytesIO()
    settings = {"vocab_size": 480, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=content, **settings | SENTENCEPIECE_OPTIONS[name]
    )
    return content.getvalue()


def write_sentencepiece(folder: Path, name: str, config: dict[str, Any] | None = None) -> Path:
    """Write tokenizer.model, of the options of that name, and tokenizer_config.json."""
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(name))
    write_json(folder / "tokenizer_config.json", config or {})
    return folder


@functools.cache
def byte_level_model() -> dict[str, Any]:
    """`vocab` and `merges` of a byte-level BPE vocabulary; its first token is `END`."""
    draw = random.Random(0)
    sentences = [" ".join(draw.choices(WORDS, k=9)) for _ in range(600)]
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    found: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return found


def num_byte_level_tokens() -> int:
    """The first id that is free for added tokens."""
    return len(byte_level_model()["vocab"])


def write_byte_level(folder: Path, tokenizer_config: dict[str, Any], /, **others: dict[str, Any]) -> Path:
    """Write vocab.json, merges.txt, tokenizer_config.json, and `others` as JSON files of their names."""
    model = byte_level_model()
    write_json(folder / "vocab.json", model["vocab"])
    lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, content in {"tokenizer_config": tokenizer_config, **others}.items():
        write_json(folder / f"{name}.json", content)
    return folder


def write_json(path: Path, content: Any) -> None:
    """Write one JSON file."""
    path.write_text(json.dumps(content), encoding="utf-8")
