"""The module itself is a `Kernels`, as reference.py is: what Triton does better than PyTorch, and PyTorch's for the rest."""

from engine.kernels.reference import (
    activate,
    activate_and_multiply,
    apply_rope,
    compile_layers,
    grouped_linear,
    layer_norm,
    linear,
    rms_norm,
    store_kv,
)
from engine.kernels.triton.attention import paged_attention

name = "triton"

__all__ = [
    "activate",
    "activate_and_multiply",
    "apply_rope",
    "compile_layers",
    "grouped_linear",
    "layer_norm",
    "linear",
    "name",
    "paged_attention",
    "rms_norm",
    "store_kv",
]
