"""Which attention backend runs: the first in the table without an objection."""

import torch

from engine.attention.base import AttentionBackend
from engine.attention.cpu import CpuBackend
from engine.attention.reference import ReferenceBackend
from engine.attention.triton import TritonBackend
from engine.errors import ModelLoadError
from engine.models.spec import DecoderSpec

BACKENDS: tuple[type[AttentionBackend], ...] = (CpuBackend, TritonBackend, ReferenceBackend)
"""In order of preference."""


def choose_backend(
    spec: DecoderSpec,
    dtype: torch.dtype,
    device: torch.device,
    wanted: str = "auto",
    kv_cache_dtype: torch.dtype | None = None,
) -> tuple[type[AttentionBackend], dict[str, list[str]]]:
    """The backend to use, and the objections of each that was passed over.

    Args:
        spec: the model.
        dtype: of its activations.
        device: where it runs.
        wanted: a backend's name, or auto.
        kv_cache_dtype: of cached keys and values; None: `dtype`.

    Raises:
        ModelLoadError: every candidate objects; the message lists all their reasons.
    """
    objections: dict[str, list[str]] = {}
    for backend in BACKENDS:
        reasons = backend.objections(spec, dtype, device, kv_cache_dtype or dtype)
        if wanted not in ("auto", backend.name):
            reasons = [*reasons, f"{wanted!r} was asked for"]
        if not reasons:
            return backend, objections
        objections[backend.name] = reasons
    listed = "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in objections.items())
    raise ModelLoadError(f"no attention backend can run this model: {listed}")
