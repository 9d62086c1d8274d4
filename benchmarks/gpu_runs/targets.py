"""What was aimed at on one H200, beside what was found."""

from collections.abc import Callable
from typing import Any, NamedTuple

Pieces = dict[str, Any]


class Target(NamedTuple):
    """One aim.

    Attributes:
        says: it in words.
        figure: finds the figure; raises LookupError where it was not measured.
        limit: of the figure.
        is_most: the limit is the most that is allowed; else the least.
    """

    says: str
    figure: Callable[[Pieces], float]
    limit: float
    is_most: bool = False

    def verdict(self, pieces: Pieces) -> dict[str, Any]:
        """The limit, the figure and whether it holds; no figure where it was not measured."""
        aim = {"says": self.says, ("at_most" if self.is_most else "at_least"): self.limit}
        try:
            figure = float(self.figure(pieces))
        except (LookupError, TypeError):
            return aim | {"figure": None}
        return aim | {"figure": figure, "holds": figure <= self.limit if self.is_most else figure >= self.limit}


def _share(variant: str) -> Callable[[Pieces], float]:
    return lambda pieces: float(pieces["decode_kernel"]["variants"][variant]["share_of_copy"])


def _prefill(seq_len: int) -> Callable[[Pieces], float]:
    def find(pieces: Pieces) -> float:
        points = {point["seq_len"]: point for point in pieces["prefill_kernel"]["points"]}
        return float(points[seq_len]["speed_up"])

    return find


def _off_prediction(variant: str) -> Callable[[Pieces], float]:
    def find(pieces: Pieces) -> float:
        point = pieces["heads"]["variants"][variant]
        return abs(float(point["speed_up_over_mha"]) / float(point["speed_up_by_bytes"]) - 1)

    return find


TARGETS = [
    *(
        Target(f"decode kernel, {name.upper()}, share of copy bandwidth", _share(name), limit)
        for name, limit in (("mha", 0.9), ("gqa", 0.9), ("mqa", 0.8))
    ),
    *(
        Target(f"prefill attention at {n:,} tokens, PyTorch's FlashAttention's time over ours", _prefill(n), 1.0)
        for n in (2048, 8192, 32768)
    ),
    Target("8B, batch 1, seconds a token", lambda p: p["llama_decode"]["points"][0]["step_s"], 4.4e-3, is_most=True),
    Target(
        "8B, batch 256 at 1,024 tokens, share of floor", lambda p: p["llama_decode"]["points"][1]["share_of_floor"], 0.7
    ),
    Target("8B, batch 256, idle share", lambda p: p["llama_decode"]["points"][1]["idle_share"], 0.05, is_most=True),
    Target("0.6B, 256 requests, output tokens/s", lambda p: p["throughput"]["output_tokens_per_s"], 26_000),
    Target("tokens/s over transformers' continuous batching", lambda p: p["beside_transformers"]["ratio"], 2.0),
    *(
        Target(f"{name.upper()} over MHA, off what the bytes predict", _off_prediction(name), 0.1, is_most=True)
        for name in ("gqa", "mqa")
    ),
    Target("failed tests", lambda p: p["tests"]["num_failed"], 0, is_most=True),
]


def verdicts(pieces: Pieces) -> list[dict[str, Any]]:
    """Every target with what was found."""
    return [target.verdict(pieces) for target in TARGETS]
