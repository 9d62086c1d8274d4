"""Which attention backends run: for prefill and for decode the first in the table without an objection."""

import torch

from engine.attention.base import AttentionBackend
from engine.attention.cpu import CpuBackend
from engine.attention.flashinfer import FlashInferBackend
from engine.attention.phased import combine
from engine.attention.reference import ReferenceBackend
from engine.attention.triton import TritonBackend
from engine.attention.varlen import VarlenBackend
from engine.errors import ModelLoadError
from engine.models.spec import DecoderSpec

PREFILL: tuple[type[AttentionBackend], ...] = (
    CpuBackend,
    VarlenBackend,
    TritonBackend,
    FlashInferBackend,
    ReferenceBackend,
)
DECODE: tuple[type[AttentionBackend], ...] = (
    CpuBackend,
    TritonBackend,
    FlashInferBackend,
    VarlenBackend,
    ReferenceBackend,
)
"""In order of preference. PyTorch's FlashAttention decodes without splitting keys (varlen.NUM_SPLITS): few sequences
would leave most of a GPU idle. FlashInfer's calls are no part of a graph."""


def choose_backend(
    spec: DecoderSpec,
    dtype: torch.dtype,
    device: torch.device,
    wanted: str = "auto",
    kv_cache_dtype: torch.dtype | None = None,
    *,
    block_size: int = 16,
) -> tuple[type[AttentionBackend], dict[str, list[str]]]:
    """The backend to use, one of two where prefill and decode have each their own; and the objections of others.

    Args:
        spec: the model.
        dtype: of its activations.
        device: where it runs.
        wanted: a backend's name, or auto.
        kv_cache_dtype: of cached keys and values; None: `dtype`.
        block_size: tokens in a block.

    Returns:
        The backend, and every other that comes before it in a table, with all its reasons.

    Raises:
        ModelLoadError: every candidate objects; the message lists all their reasons.
    """
    objections: dict[str, list[str]] = {}

    def choose(table: tuple[type[AttentionBackend], ...]) -> type[AttentionBackend]:
        for backend in table:
            reasons = backend.objections(spec, dtype, device, kv_cache_dtype or dtype, block_size)
            if wanted not in ("auto", backend.name):
                reasons = [*reasons, f"{wanted!r} was asked for"]
            if not reasons:
                return backend
            objections[backend.name] = reasons
        listed = "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in objections.items())
        raise ModelLoadError(f"no attention backend can run this model: {listed}")

    return combine(choose(PREFILL), choose(DECODE)), objections
