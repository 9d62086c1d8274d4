"""What 8-bit keys and values cost in quality: perplexity, and how often the most likely token stays the same.

    python -m benchmarks.kv_quality --output benchmarks/results/kv_quality.json

Every token of a text (benchmarks/quality.py says which) is predicted from those before it in its window, with the KV cache
in one format after the other, and compared with the first run in the same dtype. A bfloat16 model changes its mind for less
than 8 bits: the run with another set of kernels (PyTorch's, and nothing else different) is the noise floor. In float32 the
rounding of activations no longer hides what the cache does.
"""

from argparse import Namespace
from typing import Any, NamedTuple

from benchmarks.quality import predict, run_all
from engine.request import TokenLogprobs
from headcount import LLM

COLUMNS = ("dtype", "kv_cache_dtype", "wanted_backend", "bytes_per_token", "perplexity", "top1_agreement")


class Run(NamedTuple):
    """Settings of an engine."""

    dtype: str
    kv_cache_dtype: str = "auto"
    attention_backend: str = "auto"


RUNS = (
    Run("bfloat16"),
    Run("bfloat16", attention_backend="reference"),
    Run("bfloat16", kv_cache_dtype="int8"),
    Run("bfloat16", kv_cache_dtype="fp8_e4m3"),
    Run("float32"),
    Run("float32", kv_cache_dtype="int8"),
    Run("float32", kv_cache_dtype="fp8_e4m3"),
)
"""The first one of a dtype is what the others are compared with."""


def main() -> None:
    run_all(__doc__, RUNS, measure, COLUMNS)


def measure(run: Run, args: Namespace) -> tuple[dict[str, Any], list[TokenLogprobs]]:
    """Bytes a token, and what the model says of the text."""
    llm = LLM(args.model, device="cpu", **run._asdict(), kv_cache_memory_bytes=1 << 28, max_num_seqs=1)
    row = {
        "dtype": llm.info.dtype,
        "kv_cache_dtype": llm.info.kv_cache_dtype,
        "wanted_backend": run.attention_backend,
        "attention_backend": llm.info.attention_backend,
        "bytes_per_token": llm.info.geometry.bytes_per_token,
    }
    return row, predict(llm, args)


if __name__ == "__main__":
    main()
