"""All layers of a decoder in one native call; src/layers.c says why."""

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from engine.kernels.base import PagedStep
from engine.kernels.coverage import ACTIVATIONS, dense_mlp, scratch_widths
from engine.kernels.cpu.attention import check_cache, pointer, raise_for
from engine.kernels.cpu.checks import check_quantized, check_tensor
from engine.kernels.cpu.library import DTYPES, KV_DTYPES, NO_WINDOW, native_library
from engine.models.spec import DecoderSpec
from engine.quantization import scale_name
from kvcache.storage import LayerCache

_POINTERS = (
    *("attention_norm", "qkv", "qkv_bias", "o", "o_bias"),
    *("mlp_norm", "up", "up_bias", "down", "down_bias", "k_cache", "v_cache"),
    *("k_scale", "v_scale"),
    *("qkv_scale", "o_scale", "up_scale", "down_scale"),
)
_SIZES = ("num_q_heads", "num_kv_heads", "k_head_dim", "v_head_dim", "window", "intermediate_size", "group")
_STEP_POINTERS = (
    *("x", "normed", "qkv", "attended", "up", "activated", "cos", "sin"),
    *("slot_mapping", "block_tables", "cu_seqlens_q", "seq_lens"),
)
_STEP_SIZES = ("num_tokens", "num_seqs", "max_blocks", "block_size", "hidden_size", "half")


class _Layer(ctypes.Structure):
    """src/layers.c: Layer."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
        ("softmax_scale", ctypes.c_float),
    )


class _Step(ctypes.Structure):
    """src/layers.c: Step."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _STEP_POINTERS),
        *((name, ctypes.c_int64) for name in _STEP_SIZES),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("dtype", "kv_dtype", "activation", "is_gated", "num_threads")),
    )


class NativeLayers:
    """The layers of one model.

    Args:
        spec: engine.kernels.coverage says that they `can_fuse` it.
        parameters: every name of spec.parameter_shapes(), contiguous, in `dtype` or as 8-bit integers beside their
            scales, on the CPU.
        dtype: of activations, one of the kernels'.
        num_threads: that share the work.

    Raises:
        ValueError: a parameter is not what it should be.
    """

    def __init__(
        self, spec: DecoderSpec, parameters: Mapping[str, Tensor], dtype: torch.dtype, num_threads: int
    ) -> None:
        self._run = native_library().hc_layers
        self._dtype, self._spec = dtype, spec
        rope, mlp = spec.layers[0].rope, dense_mlp(spec.layers[0])
        self._kept = [t for name, t in parameters.items() if name.startswith("layers.")]
        _check_parameters(spec, parameters, self._dtype)
        self._layers = (_Layer * spec.num_layers)(
            *(_describe(spec, layer_idx, parameters) for layer_idx in range(spec.num_layers))
        )
        self._step = _Step(
            hidden_size=spec.hidden_size,
            half=rope.rotary_dim // 2 if rope else 0,
            eps=spec.norm.eps,
            dtype=DTYPES[self._dtype],
            activation=ACTIVATIONS[mlp.activation],
            is_gated=mlp.is_gated,
            num_threads=num_threads,
        )
        self._widths = scratch_widths(spec)
        self._caches: list[LayerCache] = []

    def __call__(self, x: Tensor, angles: tuple[Tensor, Tensor] | None, paged: PagedStep) -> Tensor:
        """Run all layers. Side effects: x is changed, the KV of the step's tokens is in the cache.

        Args:
            x: [num_tokens, hidden_size].
            angles: cos and sin, each [num_tokens, rotary_dim / 2] float32.
            paged: where the cache is.

        Returns:
            x.

        Raises:
            MemoryError: no room for scratch.
            ValueError: shapes, dtypes or strides do not fit.
        """
        num_tokens = x.shape[0]
        self._check_step(x, angles, paged)
        self._bind_caches(paged)
        scratch = [torch.empty(num_tokens, width, dtype=self._dtype) for width in self._widths]
        step = self._step
        step.x = x.data_ptr()
        step.normed, step.qkv, step.attended, step.up, step.activated = (tensor.data_ptr() for tensor in scratch)
        step.cos, step.sin = (angles[0].data_ptr(), angles[1].data_ptr()) if angles else (None, None)
        step.slot_mapping, step.block_tables = paged.slot_mapping.data_ptr(), paged.block_tables.data_ptr()
        step.cu_seqlens_q, step.seq_lens = paged.cu_seqlens_q.data_ptr(), paged.seq_lens.data_ptr()
        step.num_tokens = num_tokens
        step.num_seqs, step.max_blocks = paged.block_tables.shape[1:]
        step.block_size = paged.caches[0].k.shape[1]
        raise_for(self._run(self._layers, len(self._layers), ctypes.byref(step)), num_tokens)
        return x

    def _bind_caches(self, paged: PagedStep) -> None:
        """Tell the layers where their caches are, once a storage."""
        if self._caches and self._caches[0].k is paged.caches[0].k:
            return
        for spec, cache in zip(self._spec.layers, paged.caches, strict=True):
            check_cache(cache, spec.num_kv_heads, spec.k_head_dim, spec.v_head_dim, self._dtype)
        for layer, group, cache in zip(self._layers, paged.groups, paged.caches, strict=True):
            layer.group = group
            layer.k_cache, layer.v_cache = cache.k.data_ptr(), cache.v.data_ptr()
            layer.k_scale, layer.v_scale = pointer(cache.k_scale), pointer(cache.v_scale)
        self._step.kv_dtype = KV_DTYPES[paged.caches[0].k.dtype]
        self._caches = paged.caches

    def _check_step(self, x: Tensor, angles: tuple[Tensor, Tensor] | None, paged: PagedStep) -> None:
        num_tokens, (num_groups, num_seqs, max_blocks) = x.shape[0], paged.block_tables.shape
        check_tensor("x", x, (num_tokens, self._spec.hidden_size), self._dtype)
        if (angles is None) != (self._step.half == 0):
            raise ValueError("angles: expected for a model with rotary embedding, and for no other")
        for name, tensor in zip(("cos", "sin"), angles or (), strict=False):
            check_tensor(name, tensor, (num_tokens, self._step.half), torch.float32)
        check_tensor("slot_mapping", paged.slot_mapping, (num_groups, num_tokens), torch.int64)
        check_tensor("block_tables", paged.block_tables, (num_groups, num_seqs, max_blocks), torch.int64)
        check_tensor("cu_seqlens_q", paged.cu_seqlens_q, (num_seqs + 1,), torch.int64)
        check_tensor("seq_lens", paged.seq_lens, (num_seqs,), torch.int64)


def _describe(spec: DecoderSpec, layer_idx: int, parameters: Mapping[str, Tensor]) -> _Layer:
    prefix, layer = f"layers.{layer_idx}", spec.layers[layer_idx]
    result = _Layer(
        num_q_heads=layer.num_q_heads,
        num_kv_heads=layer.num_kv_heads,
        k_head_dim=layer.k_head_dim,
        v_head_dim=layer.v_head_dim,
        window=NO_WINDOW if layer.sliding_window is None else layer.sliding_window,
        intermediate_size=dense_mlp(layer).intermediate_size,
        softmax_scale=layer.softmax_scale,
        attention_norm=parameters[f"{prefix}.attention_norm.weight"].data_ptr(),
        mlp_norm=parameters[f"{prefix}.mlp_norm.weight"].data_ptr(),
    )
    names = {"qkv": "qkv", "o": "o", "up": dense_mlp(layer).up_name, "down": "down"}
    for field, name in names.items():
        setattr(result, field, parameters[f"{prefix}.{name}.weight"].data_ptr())
        for kind in ("bias", "scale"):
            tensor = parameters.get(f"{prefix}.{name}.{kind}")
            setattr(result, f"{field}_{kind}", None if tensor is None else tensor.data_ptr())
    return result


def _check_parameters(spec: DecoderSpec, parameters: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    for name, shape in spec.parameter_shapes().items():
        scale = parameters.get(scale_name(name))
        if scale is None:
            check_tensor(name, parameters[name], shape, dtype)
        else:
            check_quantized(name.removesuffix(".weight"), parameters[name], scale, shape)
