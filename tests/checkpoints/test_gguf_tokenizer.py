"""Text to ids and back, for every kind of tokenizer that can be imported."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer

from checkpoints.errors import GGUFError, UnsupportedModelError
from checkpoints.gguf_file import GGUFFile
from checkpoints.gguf_tokenizer import build_tokenizer, write_tokenizer
from checkpoints.gguf_vocabulary import read_vocabulary
from checkpoints.pre_tokenizers import TEXT_CUTTERS
from tests.checkpoints.gguf_models import (
    BYTE_LEVEL_KINDS,
    BYTE_LEVEL_TOKENS,
    MERGES,
    SPECIAL,
    add_byte_level_tokenizer,
    finish,
)

TEXTS = [
    "",
    " ",
    "hello world",
    "  two  spaces \n\n\t and a tab\r\n",
    "don't I'LL 12345 3.14 x1y22",
    "üñí 日本語 😀 ﬁ ® é e\u0301",
    "def f(x):\n    return {x: 1}\n",
    "<|im_start|>hello<|im_end|> <|endoftext|>",
    "\x00\x7f\ufeff",
]


def build(path: Path, *steps: Callable[[GGUFWriter], None]) -> Tokenizer:
    source = write(path, *steps)
    return build_tokenizer(source, read_vocabulary(source))


def write(path: Path, *steps: Callable[[GGUFWriter], None]) -> GGUFFile:
    writer = GGUFWriter(path / "m.gguf", "llama")
    for step in steps:
        step(writer)
    finish(writer)
    return GGUFFile(path / "m.gguf")


def byte_level(pre: str | None) -> Callable[[GGUFWriter], None]:
    return lambda writer: add_byte_level_tokenizer(writer, pre)


@pytest.mark.parametrize("pre", [None, *TEXT_CUTTERS])
def test_byte_level_round_trip(tmp_path: Path, pre: str | None) -> None:
    tokenizer = build(tmp_path, byte_level(pre))
    for text in TEXTS:
        expected = text.replace("e\u0301", "é") if pre == "qwen2" else text
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == expected


PIECES = {
    "gpt-2": ["ab", "'ll", "Ġ123", "Ġx", "1", "y", "Ġ'", "LL", "?", "ĊĊĠ", "Ġz"],
    "smollm": ["ab", "'ll", "Ġ", "1", "2", "3", "Ġx", "1", "y", "Ġ'", "LL", "?", "ĊĊĠ", "Ġz"],
    "llama-bpe": ["ab", "'ll", "Ġ", "123", "Ġx", "1", "y", "Ġ'", "LL", "?ĊĊ", "Ġ", "Ġz"],
    "qwen2": ["ab", "'ll", "Ġ", "1", "2", "3", "Ġx", "1", "y", "Ġ'", "LL", "?ĊĊ", "Ġ", "Ġz"],
    "tekken": ["ab", "'ll", "Ġ", "1", "2", "3", "Ġx", "1", "y", "Ġ'", "LL", "?ĊĊ", "Ġ", "Ġz"],
}


@pytest.mark.parametrize("pre", PIECES)
def test_text_is_cut_as_the_model_was_trained(pre: str) -> None:
    pieces = TEXT_CUTTERS[pre].pre_tokenizer().pre_tokenize_str("ab'll 123 x1y 'LL?\n\n  z")
    assert [piece for piece, _ in pieces] == PIECES[pre]


def test_contractions_and_capitals() -> None:
    def cut(pre: str, text: str) -> list[str]:
        return [piece for piece, _ in TEXT_CUTTERS[pre].pre_tokenizer().pre_tokenize_str(text)]

    assert cut("llama-bpe", "I'LL 1234") == ["I", "'LL", "Ġ", "123", "4"]
    assert cut("gpt-2", "I'LL 1234") == ["I", "'", "LL", "Ġ1234"]
    assert cut("tekken", "camelCaseABc") == ["camel", "Case", "ABc"]


def test_merges_and_special_tokens(tmp_path: Path) -> None:
    tokenizer = build(tmp_path, byte_level("smollm"))
    assert tokenizer.encode("<|im_start|>hello world 123").tokens == (
        ["<|im_start|>", "hello", "Ġwo", "r", "l", "d", "Ġ", "1", "2", "3"]
    )
    assert tokenizer.decode([1, *tokenizer.encode("hello").ids, 2]) == "hello"


@pytest.mark.parametrize(("pre", "adds"), [("smollm", False), ("llama-bpe", True), ("tekken", True), ("qwen2", False)])
def test_bos_by_default(tmp_path: Path, pre: str, adds: bool) -> None:
    ids = build(tmp_path, byte_level(pre)).encode("hello").ids
    assert ids[0] == (1 if adds else ids[-1])


@pytest.mark.parametrize(("bos", "eos"), [(True, True), (False, True), (True, False), (False, False)])
def test_bos_and_eos_as_the_file_says(tmp_path: Path, bos: bool, eos: bool) -> None:
    def say(writer: GGUFWriter) -> None:
        writer.add_add_bos_token(bos)
        writer.add_add_eos_token(eos)

    tokenizer = build(tmp_path, byte_level("llama-bpe"), say)
    hello = tokenizer.encode("hello", add_special_tokens=False).ids
    assert tokenizer.encode("hello").ids == [1] * bos + hello + [2] * eos
    pair = tokenizer.encode("hello", "hello")
    assert pair.ids == ([1] * bos + hello + [2] * eos) * 2
    assert pair.type_ids == [0] * (len(pair.ids) // 2) + [1] * (len(pair.ids) // 2)


def sentencepiece(tokens: list[str], scores: list[float], **flags: bool) -> Callable[[GGUFWriter], None]:
    fixed = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]

    def add(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(fixed + tokens)
        writer.add_token_scores([0.0] * len(fixed) + scores)
        writer.add_token_types(kinds + [TokenType.NORMAL] * len(tokens))
        writer.add_unk_token_id(0)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        for name, value in flags.items():
            writer.add_bool(f"tokenizer.ggml.{name}", value)

    return add


LETTERS = "▁helowrd.abc"
WORDS = ["▁h", "el", "lo", "▁hel", "▁hello", "wo", "▁wo", "ab", "bc", "abc", "ca", "▁▁", "cab"]


def join_best(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's algorithm by its definition: join the neighbours whose joint token scores best."""
    parts = list(text)
    while True:
        joints = [(-scores[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in scores]
        if not joints:
            return parts
        _, i = min(joints)
        parts[i : i + 2] = ["".join(parts[i : i + 2])]


def test_sentencepiece_joins_the_best_scored(tmp_path: Path) -> None:
    rng = random.Random(0)
    tokens = [*LETTERS, *WORDS]
    scores = [-100.0] * len(LETTERS) + [float(-i) for i in rng.sample(range(50), len(WORDS))]
    tokenizer = build(tmp_path, sentencepiece(tokens, scores))
    by_token = dict(zip(tokens, scores, strict=True))
    for _ in range(300):
        text = "".join(rng.choices("helo wrd.abc", k=rng.randint(1, 20)))
        expected = join_best("▁" + text.replace(" ", "▁"), by_token)
        assert tokenizer.encode(text).tokens == ["<s>", *expected]
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_sentencepiece_spells_the_unknown_in_bytes(tmp_path: Path) -> None:
    tokenizer = build(tmp_path, sentencepiece([*LETTERS], [-1.0] * len(LETTERS)))
    assert tokenizer.encode("é").tokens == ["<s>", "▁", "<0xC3>", "<0xA9>"]
    for text in ["日本語 😀", "  hello\n", ""]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_sentencepiece_without_prefix(tmp_path: Path) -> None:
    flags = {"add_space_prefix": False, "add_bos_token": False, "add_eos_token": True}
    tokenizer = build(tmp_path, sentencepiece([*LETTERS], [-1.0] * len(LETTERS), **flags))
    assert tokenizer.encode("a b").tokens == ["a", "▁", "b", "</s>"]
    assert tokenizer.decode(tokenizer.encode(" a").ids) == " a"


def test_unknown_pre_tokenizer_lists_the_supported(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"its pre-tokenizer: expected one of default, gpt-2, .*, got gpt-9"
    ):
        build(tmp_path, byte_level("gpt-9"))


def test_unknown_tokenizer_lists_the_supported(tmp_path: Path) -> None:
    def add(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("bert")
        writer.add_token_list(["a"])

    with pytest.raises(UnsupportedModelError, match=r"its tokenizer: expected gpt2 .* or llama .*, got bert"):
        build(tmp_path, add)


def damaged(
    tokens: list[str] | None = None, kinds: list[int] | None = None, merges: list[str] | None = None, eos: int = 2
) -> Callable[[GGUFWriter], None]:
    def add(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        if tokens != []:
            writer.add_token_list(tokens or BYTE_LEVEL_TOKENS)
        writer.add_token_types(kinds or BYTE_LEVEL_KINDS)
        writer.add_token_merges(merges or MERGES)
        writer.add_eos_token_id(eos)

    return add


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (damaged(tokens=[]), GGUFError, r"holds no tokenizer"),
        (damaged(kinds=[1, 2]), GGUFError, r"token_type of .*: expected 267 entries, one per token, got 2"),
        (damaged(tokens=["a"] * 267), UnsupportedModelError, "spelled alike"),
        (damaged(merges=["hello"]), GGUFError, r"merges of .*: expected two parts, got 'hello'"),
        (damaged(merges=["he zz"]), GGUFError, r"the tokenizer of .* is corrupt \(.*he zz|zz"),
        (damaged(eos=267), GGUFError, r"the eos token of .*: expected an id below 267, got 267"),
    ],
)
def test_damaged(tmp_path: Path, step: Callable[[GGUFWriter], None], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        write_tokenizer(write(tmp_path, step), tmp_path, 128)


def test_sentencepiece_without_scores(tmp_path: Path) -> None:
    def add(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["a", "b"])

    with pytest.raises(GGUFError, match=r"scores of .*: expected 2 entries, one per token, got 0"):
        build(tmp_path, add)


def test_end_tokens(tmp_path: Path) -> None:
    def named(writer: GGUFWriter) -> None:
        writer.add_uint32("tokenizer.ggml.eot_token_id", 5)
        writer.add_uint32("tokenizer.ggml.eom_token_id", 2)

    assert read_vocabulary(write(tmp_path, byte_level(None), named)).end_token_ids == [2, 5, 0]


def test_tokenizers_version_reads_what_it_wrote(tmp_path: Path) -> None:
    write_tokenizer(write(tmp_path, byte_level("llama-bpe")), tmp_path, 128)
    loaded = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert loaded.encode("".join(SPECIAL)).ids == [1, 0, 1, 2]
