"""Byte-level tokenizers from vocab.json and merges.txt, the files that GPT-2 came with."""

from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer, decoders, models

from checkpoints.added_tokens import MAX_TOKEN_ID, TokenizerConfig
from checkpoints.errors import TokenizerFileError
from checkpoints.folders import CONFIG_FILE
from checkpoints.json_files import read_json_object
from checkpoints.pre_tokenizers import TEXT_CUTTERS, TextCutter
from checkpoints.tokenizer_files import SAVE_REMEDY, check_size, exists, read_text

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"

_END = "<|endoftext|>"


class ByteLevelKind(msgspec.Struct, frozen=True):
    """What a tokenizer class does that its files do not say.

    Attributes:
        cutter: how text is cut before merging.
        roles: tokens for roles that the files do not mention.
    """

    cutter: TextCutter
    roles: dict[str, str]


_GPT2 = ByteLevelKind(TEXT_CUTTERS["gpt-2"], {"bos_token": _END, "eos_token": _END, "unk_token": _END})
_GPT_NEOX = ByteLevelKind(TextCutter(is_nfc=True), {**_GPT2.roles, "pad_token": "<|padding|>"})
_QWEN2 = ByteLevelKind(TEXT_CUTTERS["qwen2"], {"eos_token": _END, "unk_token": _END, "pad_token": _END})

CLASSES = {
    "GPT2Tokenizer": _GPT2,
    "CodeGenTokenizer": _GPT2,
    "GPTNeoXTokenizer": _GPT_NEOX,
    "Qwen2Tokenizer": _QWEN2,
    "Qwen3Tokenizer": _QWEN2,
}
"""`tokenizer_class` without "Fast" -> what it does."""

NAMELESS_CLASSES = ("", "PreTrainedTokenizer", "TokenizersBackend", "AutoTokenizer")
"""Classes that say nothing about how text is cut."""

MODEL_TYPES = (
    dict.fromkeys(("gpt2", "gpt_neo", "gptj", "gpt_bigcode", "opt", "codegen", "phi", "starcoder2"), _GPT2)
    | dict.fromkeys(("gpt_neox", "mpt", "olmo", "falcon_mamba", "mamba"), _GPT_NEOX)
    | dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next"), _QWEN2)
)
"""`model_type` of config.json -> the same, where no class is named."""


def build_from_merges(config: TokenizerConfig) -> tuple[Tokenizer, TokenizerConfig]:
    """The tokenizer in vocab.json and merges.txt, and its config with the roles that follow from its class.

    Raises:
        CheckpointError: a file is missing, unreadable or corrupt, or the class is not one of `CLASSES`.
    """
    folder = config.folder
    kind = _find_kind(config)
    config = config.with_defaults(kind.roles)
    ids = _read_vocab(folder / VOCAB_FILE)
    merges = _read_merges(folder / MERGES_FILE, ids)
    added = config.place(ids)
    tokenizer = Tokenizer(_model(folder, _with_added(ids, {str(t.content): i for i, t in added.items()}), merges))
    if (normalizer := kind.cutter.normalizer()) is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = kind.cutter.pre_tokenizer(add_prefix_space=bool(config.flag("add_prefix_space")))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(list(added.values()))
    return tokenizer, config


def _find_kind(config: TokenizerConfig) -> ByteLevelKind:
    path = config.folder / CONFIG_FILE
    model: dict[str, Any] = read_json_object(path) if exists(path) else {}
    name = (config.text("tokenizer_class") or str(model.get("tokenizer_class") or "")).removesuffix("Fast")
    if name in NAMELESS_CLASSES:
        name = str(model.get("model_type") or "")
        kind = MODEL_TYPES.get(name)
    else:
        kind = CLASSES.get(name)
    if kind is None:
        what = f"{config.folder} holds a tokenizer in vocab.json and merges.txt that cannot be read: nothing says how"
        raise TokenizerFileError(
            f"{what} it cuts text",
            expected=f"a tokenizer_class of {', '.join(CLASSES)}",
            given=repr(name[:200]) if name else "none",
            remedy=SAVE_REMEDY,
        )
    return kind


def _read_vocab(path: Path) -> dict[str, int]:
    check_size(path)
    vocab = read_json_object(path)
    for token, token_id in vocab.items():
        if type(token_id) is not int or not 0 <= token_id <= MAX_TOKEN_ID:
            raise TokenizerFileError(
                f"{path} is malformed", expected=f"an id for {token!r}", given=repr(token_id)[:200]
            )
    if len(set(vocab.values())) != len(vocab):
        given = f"{len(vocab)} tokens with {len(set(vocab.values()))} ids"
        raise TokenizerFileError(f"{path} is malformed", expected="an id of its own for every token", given=given)
    return vocab


def _read_merges(path: Path, ids: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    # Lines end with "\n" alone: tokens may hold characters that Python, too, takes for the end of a line.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        text = line.removesuffix("\r")
        if not text or text.startswith("#version"):
            continue
        left, _, right = text.partition(" ")
        what = f"line {number} of {path} is malformed"
        if not (left and right) or " " in right:
            raise TokenizerFileError(what, expected="two tokens with a blank between them", given=repr(text[:200]))
        for token in (left, right, left + right):
            if token not in ids:
                raise TokenizerFileError(what, expected=f"tokens of {VOCAB_FILE}", given=repr(token[:200]))
        merges.append((left, right))
    return merges


def _with_added(ids: dict[str, int], added: dict[str, int]) -> dict[str, int]:
    """`ids` with the added tokens in it, so that the library keeps their ids; where two claim one id, the added one."""
    taken = set(added.values())
    return {token: token_id for token, token_id in ids.items() if token_id not in taken} | added


def _model(folder: Path, ids: dict[str, int], merges: list[tuple[str, str]]) -> models.BPE:
    try:
        return models.BPE(vocab=ids, merges=merges)
    except Exception as error:  # the library raises bare Exception
        raise TokenizerFileError(f"{VOCAB_FILE} and {MERGES_FILE} of {folder} do not match: {error}") from error
