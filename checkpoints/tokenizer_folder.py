"""A checkpoint's tokenizer, whichever files it comes in."""

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from checkpoints.added_tokens import TokenizerConfig, read_tokenizer_config
from checkpoints.errors import CheckpointError, TokenizerFileError
from checkpoints.merges_tokenizer import MERGES_FILE, VOCAB_FILE, build_from_merges
from checkpoints.sentencepiece_tokenizer import MODEL_FILE, build_from_sentencepiece
from checkpoints.tokenizer_files import check_size, exists
from checkpoints.tokenizer_parts import frame

TOKENIZER_FILE = "tokenizer.json"


class LoadedTokenizer(NamedTuple):
    """A tokenizer and what is said about it.

    Attributes:
        tokenizer: of the tokenizers library. One from tokenizer.model runs the sentencepiece library inside and cannot
            be saved.
        config: tokenizer_config.json, with the roles of tokens that other files give (bos_token, eos_token, …).
    """

    tokenizer: Tokenizer
    config: dict[str, Any]


def load_tokenizer(folder: Path) -> LoadedTokenizer:
    """The tokenizer in tokenizer.json; else in vocab.json and merges.txt; else in tokenizer.model.

    Raises:
        CheckpointError: there is none, or a file is unreadable or corrupt.
    """
    config = read_tokenizer_config(folder)
    if exists(folder / TOKENIZER_FILE):
        tokenizer = _read_whole(folder / TOKENIZER_FILE)
        _add_special(tokenizer, config)
    elif exists(folder / VOCAB_FILE) and exists(folder / MERGES_FILE):
        tokenizer, config = build_from_merges(config)
        _add_frame(tokenizer, config, adds_bos=False)
    elif exists(folder / MODEL_FILE):
        tokenizer, config = build_from_sentencepiece(config)
        _add_frame(tokenizer, config, adds_bos=True)
    else:
        raise _nothing_there(folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return LoadedTokenizer(tokenizer, config.values)


def _read_whole(path: Path) -> Tokenizer:
    check_size(path)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerFileError(f"{path} is no tokenizer that can be read: {error}") from None


def _add_special(tokenizer: Tokenizer, config: TokenizerConfig) -> None:
    """Make tokens special that the config calls so; tokenizer.json may have them as plain ones."""
    ids = tokenizer.get_vocab(with_added_tokens=True)
    known = tokenizer.get_added_tokens_decoder()
    for spelling, token in config.special().items():
        token_id = ids.get(spelling)
        if token_id is None:
            continue
        found = known.get(token_id, token)
        if token_id not in known or not found.special:
            found.special = True
            tokenizer.add_tokens([found])


def _add_frame(tokenizer: Tokenizer, config: TokenizerConfig, *, adds_bos: bool) -> None:
    """Put bos in front of texts and eos behind them, as the config says; `adds_bos` where it does not say."""
    found = []
    for name, default in (("bos", adds_bos), ("eos", False)):
        flag = config.flag(f"add_{name}_token")
        spelling = config.role(f"{name}_token") if (default if flag is None else flag) else ""
        token_id = tokenizer.token_to_id(spelling) if spelling else None
        found.append(None if token_id is None else (spelling, token_id))
    if (framed := frame(*found)) is not None:
        tokenizer.post_processor = framed


def _nothing_there(folder: Path) -> CheckpointError:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        names = []
    relevant = [name for name in names if "token" in name or name in (VOCAB_FILE, MERGES_FILE) or ".model" in name]
    return TokenizerFileError(
        f"{folder} has no tokenizer",
        expected=f"{TOKENIZER_FILE}, or {VOCAB_FILE} and {MERGES_FILE}, or {MODEL_FILE}",
        given=", ".join(relevant[:8]) or "none of them",
        remedy="Add the files that belong to the model",
    )
