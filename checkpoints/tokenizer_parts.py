"""What the tokenizers of several formats share: how SentencePiece's pieces join, and what frames a text."""

from tokenizers import decoders, processors

BLANK = "▁"
"""What SentencePiece writes for a blank."""


def sentencepiece_decoder(*, has_bytes: bool, has_prefix: bool) -> decoders.Decoder:
    """How pieces become text.

    Args:
        has_bytes: the vocabulary has tokens such as `<0x0A>`, which stand for bytes.
        has_prefix: texts are encoded with a blank in front, which is taken off again.
    """
    steps: list[decoders.Decoder] = [decoders.Replace(BLANK, " ")]
    if has_bytes:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if has_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)


def frame(before: tuple[str, int] | None, behind: tuple[str, int] | None) -> processors.TemplateProcessing | None:
    """Tokens before and behind every text; None where there are none.

    Args:
        before: spelling and id of the one that a text begins with.
        behind: of the one that it ends with.
    """
    if before is None and behind is None:
        return None
    first = [*([before[0]] if before else []), "$A", *([behind[0]] if behind else [])]
    second = ["$B" if part == "$A" else part for part in first]
    special_tokens = dict(token for token in (before, behind) if token)
    return processors.TemplateProcessing(
        single=first, pair=[*first, *(f"{part}:1" for part in second)], special_tokens=list(special_tokens.items())
    )
