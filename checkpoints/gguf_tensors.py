"""GGUF tensors to Hugging Face tensors: other names, another order of rows, plain numbers instead of quantized blocks."""

import functools
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import numpy as np
from gguf import GGMLQuantizationType, ReaderTensor
from gguf.quants import dequantize

from checkpoints.errors import GGUFError, UnsupportedModelError
from checkpoints.gguf_config import ROPE_FREQS, num_heads
from checkpoints.gguf_file import GGUFFile
from checkpoints.safetensors_writer import TensorToWrite

Array = np.ndarray[Any, np.dtype[Any]]
StoredDType = Literal["bfloat16", "float16", "float32"]

STORED_DTYPES: dict[StoredDType, tuple[str, int]] = {
    "bfloat16": ("BF16", 2),
    "float16": ("F16", 2),
    "float32": ("F32", 4),
}
"""Our name -> safetensors' name, bytes of one number."""

MAX_FLOAT16 = 65504.0

CHUNK_ELEMENTS = 1 << 22
"""Numbers dequantized at a time: the memory in use stays at some tens of megabytes, however large a tensor is."""


class Naming(msgspec.Struct, frozen=True):
    """How one architecture's tensors are called.

    Attributes:
        model: GGUF name -> Hugging Face name of what is there once.
        optional: those of `model` that may be absent.
        layer_prefix: Hugging Face prefix of a layer, with {} for its number.
        layer: GGUF module -> Hugging Face module within a layer.
        layer_kinds: the parameters that every layer module must have.
        permuted: GGUF modules whose rows are interleaved for rotary embedding.
        transposed: GGUF modules whose weight Hugging Face keeps as [in, out].
    """

    model: dict[str, str]
    optional: frozenset[str]
    layer_prefix: str
    layer: dict[str, str]
    layer_kinds: tuple[str, ...]
    permuted: frozenset[str] = frozenset()
    transposed: frozenset[str] = frozenset()


LLAMA = Naming(
    model={
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    },
    optional=frozenset({"output.weight"}),
    layer_prefix="model.layers.{}",
    layer={
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    },
    layer_kinds=("weight",),
    permuted=frozenset({"attn_q", "attn_k"}),
)

GPT2 = Naming(
    model={
        "token_embd.weight": "transformer.wte.weight",
        "position_embd.weight": "transformer.wpe.weight",
        "output_norm.weight": "transformer.ln_f.weight",
        "output_norm.bias": "transformer.ln_f.bias",
        "output.weight": "lm_head.weight",
    },
    optional=frozenset({"output.weight"}),
    layer_prefix="transformer.h.{}",
    layer={
        "attn_norm": "ln_1",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    },
    layer_kinds=("weight", "bias"),
    transposed=frozenset({"attn_qkv", "attn_output", "ffn_up", "ffn_down"}),
)

NAMINGS = {"llama": LLAMA, "gpt2": GPT2}


def plan_tensors(source: GGUFFile, dtype: StoredDType) -> list[TensorToWrite]:
    """Every tensor to write, in the order of the model; nothing is dequantized before its turn comes.

    Raises:
        GGUFError: a tensor is missing.
        UnsupportedModelError: a tensor has no place in this architecture, or is of a type that cannot be read.
    """
    naming = NAMINGS[source.architecture]
    plan = [
        _tensor(source, gguf_name, name, naming, dtype)
        for gguf_name, name in _names(source, naming).items()
        if gguf_name in source.tensors
    ]
    if surplus := set(source.tensors) - set(_names(source, naming)) - {ROPE_FREQS}:
        what = f"{source.path} cannot be imported: tensors unknown to the architecture {source.architecture}"
        raise UnsupportedModelError(what, given=", ".join(sorted(surplus)[:5]))
    return plan


def _names(source: GGUFFile, naming: Naming) -> dict[str, str]:
    """GGUF name -> Hugging Face name of all that the model has or may have."""
    names = dict(naming.model)
    required = set(names) - naming.optional
    for layer_idx in range(source.require(f"{source.architecture}.block_count", int)):
        prefix = naming.layer_prefix.format(layer_idx)
        for module, theirs in naming.layer.items():
            names |= {f"blk.{layer_idx}.{module}.{kind}": f"{prefix}.{theirs}.{kind}" for kind in ("weight", "bias")}
            required |= {f"blk.{layer_idx}.{module}.{kind}" for kind in naming.layer_kinds}
    if missing := required - set(source.tensors):
        raise GGUFError(f"{source.path} lacks {len(missing)} tensors, such as {min(missing)!r}")
    return names


def _tensor(source: GGUFFile, gguf_name: str, name: str, naming: Naming, dtype: StoredDType) -> TensorToWrite:
    tensor = source.tensors[gguf_name]
    _check_type(source, tensor)
    module, _, kind = gguf_name.removeprefix("blk.").partition(".")[2].rpartition(".")
    shape = tuple(int(size) for size in reversed(tensor.shape))
    is_transposed = module in naming.transposed and kind == "weight"
    order = _half_split_order(source, module, shape[0]) if module in naming.permuted else None
    stored_name, itemsize = STORED_DTYPES[dtype]
    return TensorToWrite(
        name=name,
        dtype=stored_name,
        shape=shape[::-1] if is_transposed else shape,
        nbytes=tensor.n_elements * itemsize,
        data=functools.partial(_pieces, tensor, order, is_transposed, dtype),
    )


def _check_type(source: GGUFFile, tensor: ReaderTensor) -> None:
    """Try the type on one row, so that an import fails before its first byte rather than in the middle."""
    try:
        _plain(tensor.data[:1], tensor.tensor_type)
    except NotImplementedError as error:
        what = f"tensor {tensor.name!r} of {source.path} has a type that cannot be dequantized"
        raise UnsupportedModelError(what, given=tensor.tensor_type.name) from error


def _half_split_order(source: GGUFFile, module: str, num_rows: int) -> Array:
    """Which GGUF row becomes which row.

    A rotary pair of llama.cpp is rows (2i, 2i + 1) of a head, one of transformers rows (i, i + head_dim / 2). For a
    head_dim of 6: GGUF rows 0 2 4 1 3 5, in this order.
    """
    num_q_heads, num_kv_heads = num_heads(source)
    num = num_q_heads if module == "attn_q" else num_kv_heads
    if num_rows % (2 * num):
        raise GGUFError(
            f"{module} of {source.path}", expected=f"an even number of rows per head ({num})", given=str(num_rows)
        )
    return np.arange(num_rows).reshape(num, -1, 2).swapaxes(1, 2).reshape(-1)


def _pieces(tensor: ReaderTensor, order: Array | None, is_transposed: bool, dtype: StoredDType) -> Iterator[bytes]:
    """The tensor's numbers as bytes of `dtype`."""
    if is_transposed:
        yield _encode(np.ascontiguousarray(_plain(tensor.data, tensor.tensor_type).T), dtype, tensor.name)
        return
    num_rows = len(tensor.data)
    rows_per_chunk = max(1, CHUNK_ELEMENTS * num_rows // max(1, tensor.n_elements))
    for start in range(0, num_rows, rows_per_chunk):
        rows = slice(start, start + rows_per_chunk)
        # Blocks never cross rows, so rows can change places while they are still quantized.
        chunk = tensor.data[rows] if order is None else tensor.data[order[rows]]
        yield _encode(_plain(chunk, tensor.tensor_type), dtype, tensor.name)


def _plain(data: Array, kind: GGMLQuantizationType) -> Array:
    """float32 numbers of `data`."""
    if kind == GGMLQuantizationType.F64:
        return data.astype(np.float32)
    return np.asarray(dequantize(data, kind), dtype=np.float32)


def _encode(values: Array, dtype: StoredDType, name: str) -> bytes:
    if dtype == "float32":
        return values.astype("<f4", copy=False).tobytes()
    if dtype == "bfloat16":
        return to_bfloat16(values).tobytes()
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0))
    if largest > MAX_FLOAT16:
        remedy = "Import as bfloat16 or float32"
        raise UnsupportedModelError(f"{name} does not fit in float16", given=f"a value of {largest:g}", remedy=remedy)
    return values.astype("<f2").tobytes()


def to_bfloat16(values: Array) -> Array:
    """float32 to the bits of bfloat16, uint16: rounded to nearest, ties to even; NaN stays NaN."""
    bits = values.astype("<f4", copy=False).view("<u4")
    # Half of the last kept digit, less one when that digit is even, carries over exactly where rounding goes up.
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(is_nan, (bits >> 16) | 0x40, rounded).astype("<u2")
