"""Attention's memory by sequence length; see benchmarks/attention_memory.py."""

from typing import Any

from benchmarks import attention_memory
from benchmarks.gpu_runs.timing import Device

REHEARSED_LENGTHS = (32, 64)


def run(device: Device) -> dict[str, Any]:
    """On this device, with the kernels that serve on it."""
    lengths = REHEARSED_LENGTHS if device.is_rehearsal else attention_memory.SEQ_LENS
    return attention_memory.measure(device.torch, lengths)
