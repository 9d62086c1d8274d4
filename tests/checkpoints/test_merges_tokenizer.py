"""vocab.json and merges.txt give what transformers makes of them."""

import random
import warnings
from pathlib import Path
from typing import Any

import pytest

from checkpoints.errors import CheckpointError, ConfigFileError, TokenizerFileError
from checkpoints.tokenizer_folder import load_tokenizer
from tests.checkpoints.tokenizer_models import (
    END,
    TEXTS,
    WORDS,
    byte_level_model,
    num_byte_level_tokens,
    write_byte_level,
    write_json,
)

FREE = num_byte_level_tokens()


def token(content: str, **flags: bool) -> dict[str, Any]:
    """A token as transformers writes it."""
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {"content": content, **plain, **flags}


OPT_END = {"__type": "AddedToken", **token("</s>", normalized=True)}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gpt2": ({"tokenizer_class": "GPT2Tokenizer"}, {}),
    "gpt2-fast": ({"tokenizer_class": "GPT2TokenizerFast", "add_bos_token": True}, {}),
    "gpt2-prefix": ({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, {}),
    "opt": (
        {
            "tokenizer_class": "GPT2Tokenizer",
            "add_bos_token": True,
            "bos_token": OPT_END,
            "eos_token": OPT_END,
            "unk_token": OPT_END,
        },
        {"added_tokens": {"</s>": FREE, "<pad>": FREE + 1}, "special_tokens_map": {"pad_token": "<pad>"}},
    ),
    "qwen2": (
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "additional_special_tokens": ["<|im_start|>"],
            "added_tokens_decoder": {
                "0": token(END),
                str(FREE): token("<|im_start|>"),
                str(FREE + 1): token("<|im_end|>"),
                str(FREE + 2): token("<tool>", special=False, rstrip=True),
            },
        },
        {},
    ),
    "qwen2-older": (
        {"tokenizer_class": "Qwen2Tokenizer", "add_eos_token": True},
        {
            "added_tokens": {"<|im_start|>": FREE, "<|im_end|>": FREE + 1, "<tool>": FREE + 2},
            "special_tokens_map": {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]},
        },
    ),
    "phi": (
        {"tokenizer_class": "CodeGenTokenizer"},
        {"added_tokens": {"  ": FREE, "    ": FREE + 1, "\t\t": FREE + 2}},
    ),
    "gpt-neox": (
        {"tokenizer_class": "GPTNeoXTokenizer", "add_bos_token": True},
        {"added_tokens": {"<|padding|>": FREE}},
    ),
}

SPECIAL = [END, "<|im_start|>", "<|im_end|>", "<tool>", "</s>", "<pad>", "<|padding|>"]


def mixed_texts() -> list[str]:
    draw = random.Random(2)
    parts = [*WORDS, *SPECIAL, " ", "  ", "    ", "\n", "\t\t", "e\u0301", "👩‍🚀"]
    return TEXTS + ["".join(draw.choices(parts, k=draw.randint(1, 9))) for _ in range(200)]


def oracle(folder: Path, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        return getattr(transformers, name).from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("case", CASES)
def test_ids_and_texts_are_those_of_transformers(tmp_path: Path, case: str) -> None:
    config, others = CASES[case]
    tokenizer, values = load_tokenizer(write_byte_level(tmp_path, config, **others))
    expected = oracle(tmp_path, config["tokenizer_class"].removesuffix("Fast"))
    for text in mixed_texts():
        for special in (True, False):
            ids = tokenizer.encode(text, add_special_tokens=special).ids
            assert ids == expected(text, add_special_tokens=special)["input_ids"], repr(text)
            shown = expected.decode(ids, skip_special_tokens=special, clean_up_tokenization_spaces=False)
            assert tokenizer.decode(ids, skip_special_tokens=special) == shown
    roles = {name: token for name, token in expected.special_tokens_map.items() if isinstance(token, str)}
    found = {name: values[name]["content"] if isinstance(values[name], dict) else values[name] for name in roles}
    assert found == roles


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ({"tokenizer_class": "Qwen2TokenizerFast"}, {"model_type": "gpt2"}),
        ({}, {"model_type": "qwen2"}),
        ({}, {"tokenizer_class": "Qwen2Tokenizer", "model_type": "gpt2"}),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, {"model_type": "qwen3"}),
    ],
)
def test_the_class_or_else_the_model_says_how_text_is_cut(
    tmp_path: Path, config: dict[str, Any], model: dict[str, Any]
) -> None:
    tokenizer = load_tokenizer(write_byte_level(tmp_path, config, config=model)).tokenizer
    assert [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("x12")] == ["x", "1", "2"]


@pytest.mark.parametrize(
    ("config", "model", "given"),
    [
        ({"tokenizer_class": "CTRLTokenizer"}, {"model_type": "gpt2"}, "'CTRLTokenizer'"),
        ({}, {"model_type": "biogpt"}, "'biogpt'"),
        ({}, {}, "none"),
    ],
)
def test_nothing_is_guessed(tmp_path: Path, config: dict[str, Any], model: dict[str, Any], given: str) -> None:
    message = rf"nothing says how it cuts text: expected a tokenizer_class of GPT2Tokenizer, .*, got {given}\. Save it"
    with pytest.raises(TokenizerFileError, match=message):
        load_tokenizer(write_byte_level(tmp_path, config, config=model))


def test_ids_may_have_gaps_and_placeholders_may_be_renamed(tmp_path: Path) -> None:
    vocab = byte_level_model()["vocab"]
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "added_tokens_decoder": {str(FREE + 9): token("<far>"), str(FREE + 1): token("<named>", special=False)},
    }
    write_byte_level(tmp_path, config)
    write_json(tmp_path / "vocab.json", {**vocab, "<reserved>": FREE + 1})
    tokenizer = load_tokenizer(tmp_path).tokenizer
    ids = tokenizer.encode("a<far>b<named><reserved>").ids
    assert ids[:4] == [vocab["a"], FREE + 9, vocab["b"], FREE + 1]
    assert FREE + 1 not in ids[4:]
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<far>b<named><reserved>"


def test_a_special_token_without_an_id_is_text(tmp_path: Path) -> None:
    config = {"tokenizer_class": "GPT2Tokenizer", "pad_token": "[PAD]", "additional_special_tokens": ["[X]"]}
    tokenizer, values = load_tokenizer(write_byte_level(tmp_path, config))
    assert max(tokenizer.encode("[PAD][X]").ids) < FREE
    assert values["pad_token"] == "[PAD]"


def write_gpt2(folder: Path) -> Path:
    return write_byte_level(folder, {"tokenizer_class": "GPT2Tokenizer"})


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n"])
def test_merges_need_no_version_and_may_end_in_any_way(tmp_path: Path, end: str) -> None:
    expected = load_tokenizer(write_gpt2(tmp_path)).tokenizer.encode("the quick brown fox").ids
    lines = [" ".join(merge) for merge in byte_level_model()["merges"]]
    newline = "\r\n" if "\r" in end else "\n"
    (tmp_path / "merges.txt").write_bytes((newline.join(lines) + end).encode())
    assert load_tokenizer(tmp_path).tokenizer.encode("the quick brown fox").ids == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"#version: 0.2\nh e\nzz q\n",
            r"line 3 of .*merges\.txt is malformed: expected tokens of vocab\.json, got 'zz'",
        ),
        (b"q q\n", r"line 1 of .*merges\.txt is malformed: expected tokens of vocab\.json, got 'qq'"),
        (b"h\n", r"expected two tokens with a blank between them, got 'h'"),
        (b"h e l\n", r"expected two tokens with a blank between them, got 'h e l'"),
        (b" he\n", r"expected two tokens with a blank between them, got ' he'"),
        (b"h \xff\n", r"merges\.txt is malformed: expected UTF-8 text, got byte 0xFF at position 2"),
    ],
)
def test_broken_merges(tmp_path: Path, content: bytes, message: str) -> None:
    (write_gpt2(tmp_path) / "merges.txt").write_bytes(content)
    with pytest.raises(TokenizerFileError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": -1}', "expected an id for 'a', got -1"),
        ('{"a": true}', "expected an id for 'a', got True"),
        ('{"a": "1"}', "expected an id for 'a', got '1'"),
        ('{"a": 4294967296}', "expected an id for 'a', got 4294967296"),
        ('{"a": 1, "b": 1}', "expected an id of its own for every token, got 2 tokens with 1 ids"),
        ('{"a": 1, "a": 2}', "the key 'a' twice"),
        ("[]", "expected a JSON object, got list"),
        ('{"a"', "expected JSON"),
    ],
)
def test_a_broken_vocabulary(tmp_path: Path, content: str, message: str) -> None:
    (write_gpt2(tmp_path) / "vocab.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"vocab\.json is malformed: .*{message}"):
        load_tokenizer(tmp_path)


def test_an_added_token_may_not_take_the_place_of_one_that_merges_need(tmp_path: Path) -> None:
    left = byte_level_model()["merges"][0][0]
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "added_tokens_decoder": {str(byte_level_model()["vocab"][left]): token("<new>")},
    }
    with pytest.raises(TokenizerFileError, match=r"vocab\.json and merges\.txt of .* do not match"):
        load_tokenizer(write_byte_level(tmp_path, config))


def test_an_added_token_with_two_ids(tmp_path: Path) -> None:
    config = {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": {"7": token(END)}}
    with pytest.raises(ConfigFileError, match=r"expected id 0 for the added token '<\|endoftext\|>', got 7"):
        load_tokenizer(write_byte_level(tmp_path, config))
