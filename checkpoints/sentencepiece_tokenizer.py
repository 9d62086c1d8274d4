"""Tokenizers from tokenizer.model, a SentencePiece model (Kudo and Richardson 2018), BPE or Unigram.

The sentencepiece library itself cuts text into pieces, inside a tokenizer of the tokenizers library that does the rest:
added tokens, what frames a text, decoding. Token ids are so the ones of training, whatever the model's settings;
a converted model differs where its rules of normalization meet combining characters, or its own symbols a text's start.
"""

import re
from pathlib import Path

from sentencepiece import SentencePieceProcessor as Model
from tokenizers import AddedToken, NormalizedString, PreTokenizedString, Tokenizer, models, pre_tokenizers

from checkpoints.added_tokens import TokenizerConfig
from checkpoints.errors import TokenizerFileError
from checkpoints.tokenizer_files import SAVE_REMEDY, read_file
from checkpoints.tokenizer_parts import BLANK, sentencepiece_decoder

MODEL_FILE = "tokenizer.model"
NO_PREFIX, PREFIX = b"\x1a\x02\x18\x00", b"\x1a\x02\x18\x01"
"""A protobuf message's end that turns the blank in front of texts off or on.

Messages that follow each other are merged, and later values count: field 3 (normalizer_spec), 2 bytes long, that holds
field 3 (add_dummy_prefix) as 0 or 1.
"""


class PieceCutter:
    """Cuts text into the pieces of a SentencePiece model; a pre-tokenizer of the tokenizers library.

    Args:
        spellings: the tokens, by id.
        first: cuts a text's begin.
        other: cuts what comes behind an added token.
    """

    def __init__(self, spellings: list[str], first: Model, other: Model) -> None:
        self._spellings = spellings
        self._first = first
        self._other = other

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        """Replace each part of `text` that is no added token by its pieces."""
        text.split(self._cut)

    def _cut(self, place: int, part: NormalizedString) -> list[NormalizedString]:
        model = self._other if place else self._first
        return [NormalizedString(self._spellings[token_id]) for token_id in model.encode(str(part))]


def build_from_sentencepiece(config: TokenizerConfig) -> tuple[Tokenizer, TokenizerConfig]:
    """The tokenizer in tokenizer.model, and its config with the roles that the model knows.

    Raises:
        CheckpointError: a file is unreadable or corrupt.
    """
    path = config.folder / MODEL_FILE
    content = read_file(path)
    model = _load(path, content)
    config = config.with_defaults(_roles(model))
    spellings = [str(model.id_to_piece(token_id)) for token_id in range(len(model))]
    added = _control_tokens(model) | config.place({piece: token_id for token_id, piece in enumerate(spellings)})
    for token_id, token in added.items():
        if token_id < len(spellings):
            spellings[token_id] = str(token.content)
    ids = {piece: token_id for token_id, piece in enumerate(spellings)}
    ids |= {str(token.content): token_id for token_id, token in added.items()}
    tokenizer = Tokenizer(models.WordLevel(vocab=ids, unk_token=spellings[model.unk_id()]))
    first, other = _with_prefix(path, content, config)
    tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(PieceCutter(spellings, first, other))
    has_bytes = any(model.is_byte(token_id) for token_id in range(len(model)))
    tokenizer.decoder = sentencepiece_decoder(has_bytes=has_bytes, has_prefix=_has_prefix(first))
    tokenizer.add_tokens(list(added.values()))
    return tokenizer, config


def _load(path: Path, content: bytes) -> Model:
    what = f"{path} is no SentencePiece model"
    if re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", content):
        given = "a tiktoken vocabulary, which shares only the name"
        raise TokenizerFileError(what, given=given, remedy=SAVE_REMEDY)
    try:
        if content:  # the library takes nothing for a model, and complains later
            return Model(model_proto=content)
        reason = "an empty file"
    except (RuntimeError, ValueError) as error:
        reason = str(error)[:200]
    raise TokenizerFileError(what, given=reason, remedy="Download the model again")


def _roles(model: Model) -> dict[str, str]:
    ids = {"bos": model.bos_id(), "eos": model.eos_id(), "unk": model.unk_id(), "pad": model.pad_id()}
    return {f"{name}_token": str(model.id_to_piece(token_id)) for name, token_id in ids.items() if token_id >= 0}


def _control_tokens(model: Model) -> dict[int, AddedToken]:
    """Tokens that are no text: SentencePiece never finds them in any, but chat templates write them out."""
    ids = [i for i in range(len(model)) if model.is_control(i) or model.is_unknown(i)]
    return {i: AddedToken(model.id_to_piece(i), special=True, normalized=False) for i in ids}


def _with_prefix(path: Path, content: bytes, config: TokenizerConfig) -> tuple[Model, Model]:
    """The model that cuts a text's begin, and the one that cuts what comes behind an added token.

    Both put a blank in front of what they cut where the config says "legacy" (Llama 2's first tokenizers did), else
    only the first. Whether there is such a blank at all is the model's setting, unless the config has its own.
    """
    wanted = config.flag("add_prefix_space")
    first = _load(path, content if wanted is None else content + (PREFIX if wanted else NO_PREFIX))
    is_everywhere = bool(config.flag("legacy")) or not _has_prefix(first)
    return first, first if is_everywhere else _load(path, content + NO_PREFIX)


def _has_prefix(model: Model) -> bool:
    return str(model.normalize("a")).startswith((BLANK, " "))
