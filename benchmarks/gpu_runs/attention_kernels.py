"""Our Triton attention alone: decode beside the copy bandwidth, prefill beside PyTorch's FlashAttention, and its tiles."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_runs import ceilings
from benchmarks.gpu_runs.paged import Heads, Planned, make_step
from benchmarks.gpu_runs.timing import Device
from engine.kernels import triton
from engine.kernels.triton import tuning
from engine.kernels.triton.plan import ScoreOptions
from engine.kernels.triton.tiles import Tile, decode_tile, prefill_tile

HEADS = {"mha": Heads(32, 32, 128), "gqa": Heads(32, 8, 128), "mqa": Heads(32, 1, 128)}
REHEARSED_HEADS = {"mha": Heads(4, 4, 16), "gqa": Heads(4, 2, 16), "mqa": Heads(4, 1, 16)}
ITEMSIZE = 2


class Sizes(NamedTuple):
    """What is measured."""

    heads: dict[str, Heads]
    decode: tuple[int, int]
    """Sequences, and tokens of each."""
    prefill: list[tuple[int, int]]


FULL = Sizes(HEADS, (64, 4096), [(16, 2048), (4, 8192), (1, 32768)])
REHEARSED = Sizes(REHEARSED_HEADS, (2, 40), [(2, 24)])


def run_decode(device: Device) -> dict[str, Any]:
    """Bytes of keys and values a second, as a share of what a copy moves in the same run."""
    sizes = REHEARSED if device.is_rehearsal else FULL
    copied = ceilings.run(device)["copy_bytes_per_s"]
    return {
        "copy_bytes_per_s": copied,
        "variants": {name: _decode(device, sizes, name, copied) for name in sizes.heads},
    }


def _decode(device: Device, sizes: Sizes, name: str, copied: float) -> dict[str, Any]:
    heads, (num_seqs, seq_len) = sizes.heads[name], sizes.decode
    step = make_step(heads, [1] * num_seqs, [seq_len] * num_seqs, device.torch)
    seconds = device.median_s(lambda: _attend(step, heads))
    num_bytes = num_seqs * seq_len * heads.num_kv_heads * heads.head_dim * 2 * ITEMSIZE
    return {
        "num_seqs": num_seqs,
        "seq_len": seq_len,
        "heads": heads._asdict(),
        "seconds": seconds,
        "kv_bytes_per_s": num_bytes / seconds,
        "share_of_copy": num_bytes / seconds / copied,
    }


def run_prefill(device: Device) -> dict[str, Any]:
    """Whole prompts, over the paged cache, beside PyTorch's kernels over contiguous keys and values."""
    sizes = REHEARSED if device.is_rehearsal else FULL
    return {"points": [_prefill(device, sizes.heads["gqa"], *size) for size in sizes.prefill]}


def _prefill(device: Device, heads: Heads, num_seqs: int, seq_len: int) -> dict[str, Any]:
    step = make_step(heads, [seq_len] * num_seqs, [seq_len] * num_seqs, device.torch)
    ours_s = device.median_s(lambda: _attend(step, heads))
    theirs_s = _flash_s(device, heads, num_seqs, seq_len)
    flops = 4 * num_seqs * heads.num_q_heads * heads.head_dim * seq_len * (seq_len + 1) / 2
    return {
        "num_seqs": num_seqs,
        "seq_len": seq_len,
        "heads": heads._asdict(),
        "seconds": ours_s,
        "flops_per_s": flops / ours_s,
        "pytorch_flash_seconds": theirs_s,
        "speed_up": theirs_s / ours_s,
    }


def _flash_s(device: Device, heads: Heads, num_seqs: int, seq_len: int) -> float:
    """PyTorch's FlashAttention; in a rehearsal whatever the CPU has."""
    q, k, v = (
        torch.randn(num_seqs, count, seq_len, heads.head_dim, dtype=torch.bfloat16, device=device.torch)
        for count in (heads.num_q_heads, heads.num_kv_heads, heads.num_kv_heads)
    )
    backend = SDPBackend.MATH if device.is_rehearsal else SDPBackend.FLASH_ATTENTION
    with sdpa_kernel(backend):
        return device.median_s(
            lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        )


def _attend(step: Planned, heads: Heads) -> torch.Tensor:
    return triton.load_attend()(step.inputs, ScoreOptions(heads.head_dim**-0.5), step.plan)


def run_tune(device: Device) -> dict[str, Any]:
    """Times the candidates of the shapes that the other pieces use; launches on this machine take the fastest from now on."""
    sizes = REHEARSED if device.is_rehearsal else FULL
    name = "rehearsal" if device.is_rehearsal else torch.cuda.get_device_name(device.torch)
    wanted = [("prefill", "gqa"), *(("decode", variant) for variant in sizes.heads)]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "tiles.json" if device.is_rehearsal else None
        return {
            "tiles": {
                key: tile._asdict() for key, tile in (_tune(device, sizes, *one, gpu=name, path=path) for one in wanted)
            }
        }


def _tune(device: Device, sizes: Sizes, kernel: str, variant: str, *, gpu: str, path: Path | None) -> tuple[str, Tile]:
    heads, (num_seqs, seq_len) = sizes.heads[variant], sizes.decode if kernel == "decode" else sizes.prefill[0]
    query_len = 1 if kernel == "decode" else seq_len
    shape = tuning.ShapeClass(kernel, heads.head_dim, ITEMSIZE, ITEMSIZE, heads.num_q_heads // heads.num_kv_heads)
    step = make_step(heads, [query_len] * num_seqs, [seq_len] * num_seqs, device.torch)

    def measure(tile: Tile) -> float:
        with tuning.forced(shape, tile):
            return device.median_s(lambda: _attend(step, heads), num_runs=5)

    return shape.key, tuning.tune(shape, candidates(shape), measure, gpu, path)


def candidates(shape: tuning.ShapeClass) -> list[Tile]:
    """The default and its neighbours; each takes a compiler a second or two, so they are few."""
    is_decode = shape.kernel == "decode"
    default = (
        decode_tile(shape.head_dim, shape.num_q_per_kv, shape.itemsize)
        if is_decode
        else prefill_tile(shape.head_dim, shape.itemsize)
    )
    changes: list[dict[str, int]] = [
        {"num_stages": default.num_stages + 1},
        {"num_stages": default.num_stages - 1},
        {"num_warps": 4 if default.num_warps == 8 else 8},
        {"block_n": 2 * default.block_n},
        {"block_n": 2 * default.block_n, "num_warps": 8, "num_stages": 2},
        {"block_n": max(16, default.block_n // 2)},
    ]
    if not is_decode:
        changes += [{"block_m": default.block_m // 2, "num_warps": 4}]
    return list(dict.fromkeys([default, *(default._replace(**change) for change in changes)]))
