"""Which kernels the layers of a model run on."""

import functools

import torch

from engine.kernels import cpu, reference, sampling, triton
from engine.kernels.base import Kernels, SamplingKernels


def select_kernels(device: torch.device, dtype: torch.dtype, wanted: str = "auto") -> Kernels:
    """The fastest kernels for this device and dtype; the reference where there are no others.

    Args:
        device: of weights and activations.
        dtype: of weights and activations.
        wanted: `reference` for the reference wherever it runs, else `auto` or the name of an attention backend, which
            leave the choice to this function.
    """
    if wanted != "reference" and not cpu.objections(device, dtype):
        return cpu.CpuKernels(dtype)
    if wanted != "reference" and not triton.objections(device, dtype):
        return triton.load_kernels()
    return reference


@functools.cache
def select_sampling(device: torch.device, dtype: torch.dtype) -> SamplingKernels:
    """The fastest draws of tokens for logits of this dtype on this device.

    On a CPU they share the rows of a step among as many threads as PyTorch has at the first call.
    """
    if dtype is torch.float32 and not cpu.objections(device, dtype):
        return cpu.CpuSampling(torch.get_num_threads())
    if dtype is torch.float32 and not triton.objections(device, dtype):
        return triton.load_sampling()
    return sampling
