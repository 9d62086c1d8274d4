"""Triton kernels for GPUs: the reference's names and signatures, in kernels.py. Importing this package needs no Triton.

Each file here launches the device code of its namesake in jit/. Without a GPU the same code runs in Triton's interpreter
(TRITON_INTERPRET=1 before Triton is imported), where the tests hold it against the reference.
"""

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from engine.kernels.base import Kernels, SamplingKernels
from engine.kernels.triton.plan import AttentionPlan, PagedInputs, ScoreOptions

Attend = Callable[[PagedInputs, ScoreOptions, AttentionPlan], Tensor]
"""Attention of a planned step: [num_tokens, num_q_heads, v_head_dim]."""

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
"""What the kernels read and write; they add up in float32."""

MIN_CAPABILITY = (8, 0)
"""Ampere: the first with bfloat16 products and asynchronous copies."""

E4M3_CAPABILITY = (8, 9)
"""Ada: the first that converts 8-bit floating-point numbers."""


def objections(device: torch.device, dtype: torch.dtype) -> list[str]:
    """All reasons why the Triton kernels cannot run there; empty: they can."""
    reasons = []
    if device.type != "cuda":
        reasons.append(f"device {device.type} is not a GPU")
    elif not torch.cuda.is_available():
        reasons.append("PyTorch sees no GPU")
    elif torch.version.hip is None and (capability := torch.cuda.get_device_capability(device)) < MIN_CAPABILITY:
        reasons.append(f"compute capability {capability} is below {MIN_CAPABILITY}")
    if importlib.util.find_spec("triton") is None:
        reasons.append("the package triton is not installed")
    if dtype not in DTYPES:
        reasons.append(f"dtype {dtype} is none of {', '.join(map(str, DTYPES))}")
    return reasons


def kv_objections(device: torch.device, dtype: torch.dtype, kv_cache_dtype: torch.dtype) -> list[str]:
    """All reasons why the Triton kernels cannot read such a cache there, those of `objections` aside."""
    if kv_cache_dtype is dtype or kv_cache_dtype is torch.int8:
        return []
    if kv_cache_dtype is not torch.float8_e4m3fn:
        return [f"a KV cache of {kv_cache_dtype} under {dtype} is not in the Triton kernels"]
    if device.type == "cuda" and torch.cuda.is_available() and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < E4M3_CAPABILITY:
            return [f"compute capability {capability} is below {E4M3_CAPABILITY}: no e4m3; a KV cache of int8 would do"]
    return []


def load_kernels() -> Kernels:
    """The kernels. The first call imports Triton.

    Raises:
        ImportError: Triton is not installed.
    """
    from engine.kernels.triton import kernels  # noqa: PLC0415  Triton is slow to import and not everywhere

    return kernels


def load_sampling() -> SamplingKernels:
    """engine.kernels.triton.sampling. The first call imports Triton.

    Raises:
        ImportError: Triton is not installed.
    """
    from engine.kernels.triton import sampling  # noqa: PLC0415  as above

    return sampling


def load_attend() -> Attend:
    """engine.kernels.triton.attention.attend. The first call imports Triton.

    Raises:
        ImportError: Triton is not installed.
    """
    from engine.kernels.triton.attention import attend  # noqa: PLC0415  as above

    return attend
