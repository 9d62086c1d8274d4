"""What attention takes beside its inputs as a sequence grows: FlashAttention's claim (Dao et al. 2022, theorem 1), measured.

    python -m benchmarks.attention_memory --output benchmarks/results/attention_memory.json
    python -m benchmarks.attention_memory --draw benchmarks/results/attention_memory.json --output-dir docs/images

One prompt, computed in one step over the paged cache, by the fastest kernels that this machine has. On a GPU it is the
allocator's peak; on a CPU the resident memory of this process, so whatever the kernels take with malloc is in it.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

from engine import memory
from engine.kernels.base import Kernels
from engine.kernels.select import select_kernels
from kvcache.storage import LayerCache

NUM_Q_HEADS, NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE = 9, 3, 64, 16
SEQ_LENS = (1024, 2048, 4096, 8192, 16384)
DTYPE, SCORE_BYTES = torch.bfloat16, 4


def main() -> None:
    args = parse_arguments()
    if args.draw:
        print(draw(json.loads(args.draw.read_text(encoding="utf-8")), args.output_dir))
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = {
        "command": shlex.join(["python", "-m", "benchmarks.attention_memory", *sys.argv[1:]]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **measure(device, args.seq_lens),
    }
    print(json.dumps(report, indent=2))
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq-lens", type=int, nargs="+", default=SEQ_LENS)
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--draw", type=Path, help="a file that was measured before")
    parser.add_argument("--output-dir", type=Path, default=Path("docs/images"))
    return parser.parse_args()


def measure(device: torch.device, seq_lens: tuple[int, ...] | list[int]) -> dict[str, Any]:
    """Peak bytes by sequence length, beside the output itself and the score matrix that is not there."""
    kernels = select_kernels(device, DTYPE)
    attend_once(kernels, device, BLOCK_SIZE)  # compiles, and makes what is made once
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "kernels": kernels.name,
        "heads": {"num_q_heads": NUM_Q_HEADS, "num_kv_heads": NUM_KV_HEADS, "head_dim": HEAD_DIM},
        "points": [_point(kernels, device, seq_len) for seq_len in seq_lens],
    }


def _point(kernels: Kernels, device: torch.device, seq_len: int) -> dict[str, int]:
    return {
        "seq_len": seq_len,
        "peak_bytes": attend_once(kernels, device, seq_len),
        "output_bytes": seq_len * NUM_Q_HEADS * HEAD_DIM * DTYPE.itemsize,
        "score_matrix_bytes": seq_len * seq_len * NUM_Q_HEADS * SCORE_BYTES,
    }


def attend_once(kernels: Kernels, device: torch.device, seq_len: int) -> int:
    """Peak bytes beyond the inputs while one prompt of `seq_len` tokens, a multiple of a block, is computed."""
    num_blocks = seq_len // BLOCK_SIZE
    cache = LayerCache(*(_random((num_blocks, BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM), device) for _ in range(2)))
    q, table = _random((seq_len, NUM_Q_HEADS, HEAD_DIM), device), torch.randperm(num_blocks, device=device)[None]
    lengths = torch.tensor([0, seq_len], device=device)
    with memory.peak_of(device) as peak:
        kernels.paged_attention(
            *(q, cache, table), cu_seqlens_q=lengths, seq_lens=lengths[1:], softmax_scale=HEAD_DIM**-0.5
        )
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            return torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    return peak.num_bytes


def _random(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.randn(shape, dtype=DTYPE, device=device)


def draw(report: dict[str, Any], folder: Path) -> Path:
    """Both axes by powers of two: what grows with the length is a line of slope one, a score matrix one of slope two."""
    from benchmarks.plots import figure  # noqa: PLC0415  matplotlib is slow to import

    points, path = report["points"], folder / "attention_memory.png"
    lengths = [point["seq_len"] for point in points]
    with figure(path) as axes:
        matrix = [point["score_matrix_bytes"] / 2**20 for point in points]
        axes.plot(lengths, matrix, color="#666666", linestyle="--", label="a score matrix in float32 would take")
        peaks = [point["peak_bytes"] / 2**20 for point in points]
        axes.plot(lengths, peaks, color="#1f5f8b", marker="s", label="attention takes, output included")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.yaxis.set_major_formatter("{x:,.4g}")
        axes.set(
            title=f"Memory of attention beside its inputs, {report['kernels']} kernels, {report['device']}",
            xlabel="tokens of the prompt",
            ylabel="MiB",
        )
        axes.legend(loc="upper left")
    return path


if __name__ == "__main__":
    main()
