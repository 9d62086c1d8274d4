"""Native CPU kernels: C compiled on first use, called through ctypes.

They read bfloat16 (or float32) weights and KV cache as they lie in memory, and compute in float32. What one token gets
does not depend on which other tokens are in the step: every sum has one order (see src/common.h).
"""

from engine.kernels.cpu.kernels import CpuKernels, objections
from engine.kernels.cpu.sampling import CpuSampling

__all__ = ["CpuKernels", "CpuSampling", "objections"]
