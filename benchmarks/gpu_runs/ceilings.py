"""The two numbers that everything else is a share of: bytes a second and operations a second, as this device gives them."""

from typing import Any

import torch

from benchmarks.gpu_runs.timing import Device

COPY_BYTES, MATRIX_WIDTH = 1 << 32, 8192
REHEARSED_BYTES, REHEARSED_WIDTH = 1 << 20, 64


def run(device: Device) -> dict[str, Any]:
    """Device-to-device copy, counting bytes read and written, and a bf16 matrix product of random numbers."""
    num_bytes, width = (REHEARSED_BYTES, REHEARSED_WIDTH) if device.is_rehearsal else (COPY_BYTES, MATRIX_WIDTH)
    return {
        "copy_bytes_per_s": copy_bytes_per_s(device, num_bytes),
        "bf16_flops_per_s": flops_per_s(device, width),
    }


def copy_bytes_per_s(device: Device, num_bytes: int) -> float:
    """Of a buffer that no cache holds."""
    source = torch.randint(0, 256, (num_bytes,), dtype=torch.uint8, device=device.torch)
    target = torch.empty_like(source)
    return 2 * num_bytes / device.median_s(lambda: target.copy_(source))


def flops_per_s(device: Device, width: int) -> float:
    """Two operations for each product of two numbers."""
    left, right = (torch.randn(width, width, dtype=torch.bfloat16, device=device.torch) for _ in range(2))
    return 2 * width**3 / device.median_s(lambda: left @ right)
