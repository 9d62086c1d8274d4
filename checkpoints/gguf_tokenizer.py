"""The tokenizer in a GGUF file to tokenizer.json and its companions."""

from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import Tokenizer, decoders, models, normalizers, processors

from checkpoints.errors import GGUFError, UnsupportedModelError
from checkpoints.folders import GENERATION_CONFIG_FILE
from checkpoints.gguf_file import GGUFFile
from checkpoints.gguf_vocabulary import Vocabulary, read_vocabulary
from checkpoints.json_files import write_json
from checkpoints.pre_tokenizers import TEXT_CUTTERS
from checkpoints.tokenizer_parts import BLANK, frame, sentencepiece_decoder


def write_tokenizer(source: GGUFFile, folder: Path, max_model_len: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json into `folder`.

    Raises:
        GGUFError: the tokenizer is absent or its parts do not match.
        UnsupportedModelError: it is of a kind that cannot be imported.
    """
    vocabulary = read_vocabulary(source)
    try:
        tokenizer = build_tokenizer(source, vocabulary)
    except UnsupportedModelError:
        raise
    # The library raises bare Exception where merges name tokens that are not there.
    except Exception as error:
        raise GGUFError(f"the tokenizer of {source.path} is corrupt ({error})") from error
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", _tokenizer_config(source, vocabulary, max_model_len))
    write_json(folder / GENERATION_CONFIG_FILE, _generation_config(vocabulary))


def build_tokenizer(source: GGUFFile, vocabulary: Vocabulary) -> Tokenizer:
    """The tokenizer of `source`, byte-level ("gpt2" in GGUF's words) or SentencePiece's ("llama")."""
    kind = source.require("tokenizer.ggml.model", str)
    if kind not in ("gpt2", "llama"):
        what = f"{source.path} cannot be imported: its tokenizer"
        raise UnsupportedModelError(what, expected="gpt2 (byte-level) or llama (SentencePiece)", given=kind)
    is_byte_level = kind == "gpt2"
    tokenizer = _byte_level(source, vocabulary) if is_byte_level else _sentencepiece(source, vocabulary)
    tokenizer.add_tokens(vocabulary.added_tokens())
    adds_bos = source.get("tokenizer.ggml.add_bos_token", bool, _adds_bos(source) if is_byte_level else True)
    adds_eos = source.get("tokenizer.ggml.add_eos_token", bool, False)
    framed = frame(vocabulary.role("bos") if adds_bos else None, vocabulary.role("eos") if adds_eos else None)
    steps: list[processors.PostProcessor] = [processors.ByteLevel(trim_offsets=False)] if is_byte_level else []
    if framed is not None:
        steps.append(framed)
    if steps:
        tokenizer.post_processor = processors.Sequence(steps)
    return tokenizer


def _cutter_name(source: GGUFFile) -> str:
    name = source.get("tokenizer.ggml.pre", str, "default")
    if name not in TEXT_CUTTERS:
        what = f"{source.path} cannot be imported: its pre-tokenizer"
        raise UnsupportedModelError(what, expected=f"one of {', '.join(TEXT_CUTTERS)}", given=name)
    return name


def _adds_bos(source: GGUFFile) -> bool:
    return TEXT_CUTTERS[_cutter_name(source)].adds_bos


def _byte_level(source: GGUFFile, vocabulary: Vocabulary) -> Tokenizer:
    cutter = TEXT_CUTTERS[_cutter_name(source)]
    merges = [_merge(source, line) for line in source.list_of("tokenizer.ggml.merges", str)]
    model = models.BPE(vocab=vocabulary.ids(), merges=merges, ignore_merges=cutter.ignores_merges)
    tokenizer = Tokenizer(model)
    if (normalizer := cutter.normalizer()) is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = cutter.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merge(source: GGUFFile, line: str) -> tuple[str, str]:
    # The search starts at 1: a part may itself begin with a space.
    cut = line.find(" ", 1)
    if cut < 0:
        raise GGUFError(f"tokenizer.ggml.merges of {source.path}", expected="two parts", given=repr(line))
    return line[:cut], line[cut + 1 :]


def _sentencepiece(source: GGUFFile, vocabulary: Vocabulary) -> Tokenizer:
    scores = source.list_of("tokenizer.ggml.scores", float)
    if len(scores) != len(vocabulary.tokens):
        what = f"tokenizer.ggml.scores of {source.path}"
        raise GGUFError(what, expected=f"{len(vocabulary.tokens)} entries, one per token", given=str(len(scores)))
    model = models.BPE(
        vocab=vocabulary.ids(),
        merges=merges_from_scores(vocabulary, scores),
        unk_token=vocabulary.role_token("unk"),
        fuse_unk=True,
        byte_fallback=TokenType.BYTE in vocabulary.kinds,
    )
    tokenizer = Tokenizer(model)
    has_prefix = source.get("tokenizer.ggml.add_space_prefix", bool, True)
    spell = [normalizers.Replace(" ", BLANK)]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), *spell] if has_prefix else spell)
    tokenizer.decoder = sentencepiece_decoder(has_bytes=True, has_prefix=has_prefix)
    return tokenizer


def merges_from_scores(vocabulary: Vocabulary, scores: list[float]) -> list[tuple[str, str]]:
    """The merges that SentencePiece's scores imply.

    SentencePiece always joins the neighbours whose joint token scores best. So every way to cut a token into two
    tokens is a merge, and its rank is the token's score; among cuts of one token the earlier ids come first.
    """
    is_text = {
        token: token_id
        for token_id, token in enumerate(vocabulary.tokens)
        if vocabulary.kinds[token_id] in (TokenType.NORMAL, TokenType.USER_DEFINED)
    }
    merges = []
    for token, token_id in is_text.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in is_text and right in is_text:
                merges.append((-scores[token_id], token_id, is_text[left], is_text[right], left, right))
    merges.sort()
    return [(left, right) for *_, left, right in merges]


def _tokenizer_config(source: GGUFFile, vocabulary: Vocabulary, max_model_len: int) -> dict[str, Any]:
    config: dict[str, Any] = {f"{role}_token": vocabulary.role_token(role) for role in vocabulary.role_ids}
    template = source.get("tokenizer.chat_template", str, "")
    if template:
        config["chat_template"] = template
    return config | {
        # transformers has classes of its own per family that rebuild tokenizer.json; this one takes it as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_model_len,
        "clean_up_tokenization_spaces": False,
    }


def _generation_config(vocabulary: Vocabulary) -> dict[str, Any]:
    config: dict[str, Any] = {f"{role}_token_id": vocabulary.role_ids.get(role) for role in ("bos", "pad")}
    config["eos_token_id"] = vocabulary.end_token_ids or None
    return {key: value for key, value in config.items() if value is not None}
