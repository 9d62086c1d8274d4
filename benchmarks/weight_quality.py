"""What 8-bit weights cost in quality: perplexity, and how often the most likely token stays the same.

    python -m benchmarks.weight_quality --output benchmarks/results/weight_quality.json

Every token of a text (benchmarks/quality.py says which) is predicted from those before it in its window, and compared with
the run with whole weights in the same dtype. A bfloat16 model changes its mind for less than 8 bits: how often, where nothing
but the set of kernels differs, is in benchmarks/results/kv_quality.json. In float32 the rounding of activations no longer
hides what 8-bit weights do.
"""

from argparse import Namespace
from typing import Any, NamedTuple

from benchmarks.quality import predict, run_all
from engine.request import TokenLogprobs
from headcount import LLM

COLUMNS = ("dtype", "quantization", "attention_backend", "weights_bytes", "perplexity", "top1_agreement")


class Run(NamedTuple):
    """Settings of an engine."""

    dtype: str
    quantization: str = "none"


RUNS = (Run("bfloat16"), Run("bfloat16", "int8"), Run("float32"), Run("float32", "int8"))
"""The first one of a dtype is what the others are compared with."""


def main() -> None:
    run_all(__doc__, RUNS, measure, COLUMNS)


def measure(run: Run, args: Namespace) -> tuple[dict[str, Any], list[TokenLogprobs]]:
    """Bytes of the weights, and what the model says of the text."""
    llm = LLM(args.model, device="cpu", **run._asdict(), kv_cache_memory_bytes=1 << 28, max_num_seqs=1)
    row = {
        "dtype": llm.info.dtype,
        "quantization": llm.info.quantization,
        "attention_backend": llm.info.attention_backend,
        "weights_bytes": llm.info.ledger.weights_bytes,
    }
    return row, predict(llm, args)


if __name__ == "__main__":
    main()
