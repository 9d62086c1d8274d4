"""How byte-level tokenizers cut text before merging: one entry per name that GGUF files use.

The patterns are part of the models: a token that was never cut out in training means nothing to one.
"""

import msgspec
from tokenizers import Regex, normalizers, pre_tokenizers

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_PATHS_AND_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_SPACES = (r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+")
_OPENING = r"[^\r\n\p{L}\p{N}]?"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

_LLAMA3 = (_CONTRACTION, _WORD, r"\p{N}{1,3}", _PUNCTUATION, *_SPACES)
_QWEN2 = (_CONTRACTION, _WORD, r"\p{N}", _PUNCTUATION, *_SPACES)
_TEKKEN = (
    f"{_OPENING}{_UPPER}*{_LOWER}+",
    f"{_OPENING}{_UPPER}+{_LOWER}*",
    r"\p{N}",
    _PATHS_AND_PUNCTUATION,
    *_SPACES,
)


class TextCutter(msgspec.Struct, frozen=True):
    """One way to cut text.

    Attributes:
        patterns: the alternatives of a piece, first match wins; empty for GPT-2's own.
        is_digit_split: every digit is a piece of its own before the pattern applies.
        is_nfc: text is brought to Unicode's composed form first.
        ignores_merges: a piece that is a token is taken as it is, whether or not merges lead to it.
        adds_bos: whether a text begins with the bos token where the file does not say.
    """

    patterns: tuple[str, ...] = ()
    is_digit_split: bool = False
    is_nfc: bool = False
    ignores_merges: bool = False
    adds_bos: bool = False

    def pre_tokenizer(self, *, add_prefix_space: bool = False) -> pre_tokenizers.PreTokenizer:
        """The steps that cut text and spell it in byte-level letters.

        Args:
            add_prefix_space: put a blank in front of what begins without one.
        """
        steps: list[pre_tokenizers.PreTokenizer] = []
        if self.is_digit_split:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        if self.patterns:
            steps.append(pre_tokenizers.Split(Regex("|".join(self.patterns)), behavior="isolated"))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=not self.patterns))
        return pre_tokenizers.Sequence(steps)

    def normalizer(self) -> normalizers.Normalizer | None:
        """What happens to text before it is cut."""
        return normalizers.NFC() if self.is_nfc else None


_GPT2_CUTTER = TextCutter()
_DIGIT_CUTTER = TextCutter(is_digit_split=True)
_LLAMA3_CUTTER = TextCutter(patterns=_LLAMA3, ignores_merges=True, adds_bos=True)

TEXT_CUTTERS = {
    "default": _GPT2_CUTTER,
    "gpt-2": _GPT2_CUTTER,
    "smollm": _DIGIT_CUTTER,
    "starcoder": _DIGIT_CUTTER,
    "llama-bpe": _LLAMA3_CUTTER,
    "llama3": _LLAMA3_CUTTER,
    "llama-v3": _LLAMA3_CUTTER,
    "qwen2": TextCutter(patterns=_QWEN2, is_nfc=True),
    "tekken": TextCutter(patterns=_TEKKEN, ignores_merges=True, adds_bos=True),
}
"""`tokenizer.ggml.pre` -> how text is cut."""
