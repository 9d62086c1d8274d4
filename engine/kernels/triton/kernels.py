"""The module itself is a `Kernels`, as reference.py is. Dense products stay PyTorch's: cuBLAS knows them best."""

from engine.kernels.reference import (
    compile_layers,
    gather_rows,
    gather_rows_int8,
    grouped_linear_int8,
    linear,
    linear_int8,
    pack,
    pack_int8,
    quantize_weight,
)
from engine.kernels.triton.attention import paged_attention
from engine.kernels.triton.elementwise import (
    activate,
    activate_and_multiply,
    apply_rope,
    layer_norm,
    rms_norm,
)
from engine.kernels.triton.grouped import grouped_linear
from engine.kernels.triton.rope_store import rope_and_store
from engine.kernels.triton.store import store_kv

name = "triton"
has_graphable_experts = True

__all__ = [
    "activate",
    "activate_and_multiply",
    "apply_rope",
    "compile_layers",
    "gather_rows",
    "gather_rows_int8",
    "grouped_linear",
    "grouped_linear_int8",
    "has_graphable_experts",
    "layer_norm",
    "linear",
    "linear_int8",
    "name",
    "pack",
    "pack_int8",
    "paged_attention",
    "quantize_weight",
    "rms_norm",
    "rope_and_store",
    "store_kv",
]
