"""Text to ids and back: piece by piece it is the same text as at once, and never half a character."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints.errors import CheckpointError
from server.errors import APIError
from server.tokenizer import LONG_TEXT_CHARS, Tokenizer
from tests.server import tiny_tokenizers as tiny

pytestmark = pytest.mark.anyio

BUILDERS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte-level": tiny.byte_level,
    "sentencepiece": tiny.sentencepiece,
    "sentencepiece-keeps-blank": lambda: tiny.sentencepiece(drops_first_blank=False),
    "metaspace": tiny.metaspace,
    "word-pieces": tiny.word_pieces,
}
BYTEWISE = [name for name in BUILDERS if name != "word-pieces"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return {name: Tokenizer(tiny.save(build(), tmp_path_factory.mktemp(name))) for name, build in BUILDERS.items()}


def pieces(
    tokenizer: Tokenizer, token_ids: list[int], *, skip: bool = False, before: list[int] | None = None
) -> list[str]:
    detokenizer = tokenizer.detokenizer(skip_special_tokens=skip, before=before or ())
    return [*map(detokenizer.feed, token_ids), detokenizer.flush()]


@pytest.mark.parametrize("name", BUILDERS)
@given(data=st.data())
@settings(max_examples=60)
def test_piece_by_piece_equals_whole(loaded: dict[str, Tokenizer], name: str, data: st.DataObject) -> None:
    tokenizer = loaded[name]
    token_ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=60))
    skip = data.draw(st.booleans())
    assert "".join(pieces(tokenizer, token_ids, skip=skip)) == tokenizer.decode(token_ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", BYTEWISE)
@given(data=st.data())
@settings(max_examples=60)
def test_bytes_of_tokens_join_to_the_text(loaded: dict[str, Tokenizer], name: str, data: st.DataObject) -> None:
    tokenizer = loaded[name]
    token_ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    text = b"".join(map(tokenizer.token_bytes, token_ids)).decode(errors="replace")
    expected = text.removeprefix(" ") if name in ("sentencepiece", "metaspace") else text
    assert tokenizer.decode(token_ids, skip_special_tokens=False) == expected


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece", "sentencepiece-keeps-blank"])
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=30), skip=st.booleans())
@settings(max_examples=60)
def test_any_text_comes_back(loaded: dict[str, Tokenizer], name: str, text: str, skip: bool) -> None:
    tokenizer = loaded[name]
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(pieces(tokenizer, token_ids, skip=skip)) == text
    library = tokenizers.Tokenizer.from_str(BUILDERS[name]().to_str())
    assert tokenizer.decode(token_ids, skip_special_tokens=skip) == library.decode(token_ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece"])
def test_never_half_a_character(loaded: dict[str, Tokenizer], name: str) -> None:
    tokenizer = loaded[name]
    token_ids = tokenizer.encode("👩‍🚀 žluť é", add_special_tokens=False)
    parts = pieces(tokenizer, token_ids)
    assert len(token_ids) > len("👩‍🚀 žluť é")
    assert not any("\ufffd" in part for part in parts)
    assert "".join(parts) == "👩‍🚀 žluť é"


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece"])
def test_bytes_that_are_no_text_come_out_as_such_and_what_follows_is_untouched(
    loaded: dict[str, Tokenizer], name: str
) -> None:
    tokenizer = loaded[name]
    vocabulary = BUILDERS[name]().get_vocab()
    [bad] = [i for i in vocabulary.values() if tokenizer.token_bytes(i) == b"\x80"]
    good = tokenizer.encode("é hello", add_special_tokens=False)
    parts = pieces(tokenizer, [*good, *[bad] * 40, *good])
    assert parts[len(good)] == "\ufffd", "each at once: none waits for the others"
    assert "".join(parts).count("\ufffd") == 40
    assert "".join(parts).endswith("é hello")


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece"])
def test_an_incomplete_character_at_the_end(loaded: dict[str, Tokenizer], name: str) -> None:
    tokenizer = loaded[name]
    [first] = [i for i in BUILDERS[name]().get_vocab().values() if tokenizer.token_bytes(i) == b"\xe2"]
    detokenizer = tokenizer.detokenizer(skip_special_tokens=True)
    assert detokenizer.feed(first) == ""
    assert detokenizer.is_within_character
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""


@pytest.mark.parametrize("name", BYTEWISE)
def test_added_tokens_are_written_as_they_are(loaded: dict[str, Tokenizer], name: str) -> None:
    tokenizer = loaded[name]
    vocabulary = BUILDERS[name]().get_vocab()
    for token in (tiny.NON_ASCII, tiny.LATIN, tiny.EOS):
        assert tokenizer.token_bytes(vocabulary[token]) == token.encode()
        assert tokenizer.decode([vocabulary[token]], skip_special_tokens=False) == token
    assert tokenizer.decode([vocabulary[tiny.EOS]], skip_special_tokens=True) == ""
    assert tokenizer.vocab_size == max(vocabulary.values()) + 1


@pytest.mark.parametrize("name", ["sentencepiece", "metaspace"])
def test_a_continuation_keeps_its_blank(loaded: dict[str, Tokenizer], name: str) -> None:
    tokenizer = loaded[name]
    vocabulary = BUILDERS[name]().get_vocab()
    hello, eos = vocabulary["▁hello"], vocabulary[tiny.EOS]
    assert "".join(pieces(tokenizer, [hello])) == "hello"
    assert "".join(pieces(tokenizer, [hello], before=[hello])) == " hello"
    assert "".join(pieces(tokenizer, [hello], before=[hello, *[eos] * 20], skip=True)) == " hello"
    assert "".join(pieces(tokenizer, [hello], before=[eos], skip=True)) == "hello", "nothing was written before"
    assert "".join(pieces(tokenizer, [hello, *[eos] * 20, hello], skip=True)) == "hello hello"


def test_byte_tokens_are_bytes_only_where_the_tokenizer_says_so(loaded: dict[str, Tokenizer]) -> None:
    token_id = tiny.metaspace().get_vocab()["<0x41>"]
    assert loaded["metaspace"].token_bytes(token_id) == b"<0x41>"


@pytest.mark.parametrize("name", BUILDERS)
def test_ids_beyond_the_vocabulary_have_no_text(loaded: dict[str, Tokenizer], name: str) -> None:
    tokenizer = loaded[name]
    for token_id in (tokenizer.vocab_size, 2**31, 2**70, -1):
        assert tokenizer.token_bytes(token_id) == b""
        assert "".join(pieces(tokenizer, [token_id], before=[token_id])) == ""
        assert tokenizer.decode([token_id], skip_special_tokens=False) == ""


def test_any_other_kind_of_tokenizer_decodes_by_itself(loaded: dict[str, Tokenizer]) -> None:
    tokenizer = loaded["word-pieces"]
    token_ids = tokenizer.encode("hello worlds hello", add_special_tokens=False)
    assert pieces(tokenizer, token_ids) == ["hello", " world", "s", " hello", ""]
    assert pieces(tokenizer, token_ids[1:], before=token_ids[:1])[0] == " world"
    eos = tiny.word_pieces().get_vocab()[tiny.EOS]
    assert "".join(pieces(tokenizer, [*[eos] * 50, *token_ids], skip=True)) == "hello worlds hello"


async def test_texts_are_encoded_together_however_long(loaded: dict[str, Tokenizer]) -> None:
    tokenizer = loaded["byte-level"]
    for texts in (["hello", "é"], [], ["hello " * LONG_TEXT_CHARS, "é"]):
        alone = [tokenizer.encode(text, add_special_tokens=True) for text in texts]
        assert await tokenizer.encode_async(texts, add_special_tokens=True) == alone


async def test_half_a_surrogate_pair_is_the_clients_mistake(loaded: dict[str, Tokenizer]) -> None:
    with pytest.raises(APIError, match="surrogate") as caught:
        await loaded["byte-level"].encode_async(["ok", "\ud800"], add_special_tokens=True, param="messages")
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_a_tokenizer_that_is_not_there_or_not_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer: expected tokenizer\.json, or"):
        Tokenizer(tmp_path)
    for content in ("", "{}", '{"model": 1}', "\x00"):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(CheckpointError, match="no tokenizer that can be read"):
            Tokenizer(tmp_path)


def test_limits_that_its_file_sets_are_lifted(tmp_path: Path) -> None:
    built = tiny.byte_level()
    built.enable_truncation(3)
    built.enable_padding(length=50)
    tokenizer = Tokenizer(tiny.save(built, tmp_path))
    assert len(tokenizer.encode("abcdefgh", add_special_tokens=False)) == 8


@pytest.mark.parametrize(
    ("config", "token"),
    [({"eos_token": "<e>"}, "<e>"), ({"eos_token": {"content": "<e>"}}, "<e>"), ({"eos_token": None}, ""), ({}, "")],
)
def test_special_tokens_of_the_config(tmp_path: Path, config: dict[str, object], token: str) -> None:
    assert Tokenizer(tiny.save(tiny.byte_level(), tmp_path, config)).special_token("eos_token") == token
