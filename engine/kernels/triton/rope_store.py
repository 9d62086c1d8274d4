"""Launches what lies between the projection of queries, keys and values and the attention, as one kernel."""

from torch import Tensor

from engine.kernels.base import HeadNorm, KVTarget, Rotation
from engine.kernels.triton.jit.rope_store import rope_store_kernel
from engine.kernels.triton.store import check_target, dense_rows, rounding
from engine.kernels.triton.tiles import TILE_NUMBERS, num_tiles, num_warps, power_of_two


def rope_and_store(
    q: Tensor, k: Tensor, v: Tensor, target: KVTarget, rotation: Rotation, *, norm: HeadNorm | None = None
) -> Tensor:
    """See reference.rope_and_store. Changes q in place where its heads lie side by side.

    Raises:
        ValueError: the cache or the mapping does not fit, or more dimensions are rotated than there are.
    """
    cache = target.cache
    check_target(k, v, target)
    q, k, v = dense_rows(q), dense_rows(k), dense_rows(v)
    (num_tokens, num_q_heads, k_head_dim), num_kv_heads, half = q.shape, k.shape[1], rotation.cos.shape[1]
    if 2 * half > k_head_dim:
        raise ValueError(f"rotation: expected at most {k_head_dim // 2} pairs, got {half}")
    weights = (norm.q_weight, norm.k_weight) if norm else (None, None)
    has_own_heads = any(weight is not None and weight.dim() == 2 for weight in weights)
    head_pad = power_of_two(max(2 * power_of_two(half) + k_head_dim - 2 * half, v.shape[2]))
    block_heads = max(1, min(power_of_two(max(num_q_heads, num_kv_heads)), TILE_NUMBERS // head_pad))
    if num_tokens:
        rope_store_kernel[num_tokens, num_tiles(num_q_heads, block_heads) + num_tiles(num_kv_heads, block_heads)](
            *(q, k, v, *cache, target.slot_mapping, rotation.cos.contiguous(), rotation.sin.contiguous()),
            *(q if weight is None else weight.contiguous() for weight in weights),
            *((norm.eps, norm.weight_offset) if norm else (0.0, 0.0)),
            *(num_q_heads, num_kv_heads, q.stride(0), k.stride(0), v.stride(0), k_head_dim if has_own_heads else 0),
            HAS_NORM=norm is not None,
            HAS_WEIGHT=weights[0] is not None,
            K_DIM=k_head_dim,
            V_DIM=v.shape[2],
            HALF=half,
            HALF_PAD=power_of_two(half),
            REST_PAD=power_of_two(k_head_dim - 2 * half),
            V_PAD=power_of_two(v.shape[2]),
            BLOCK_HEADS=block_heads,
            IS_INTERLEAVED=rotation.is_interleaved,
            **rounding(cache),
            num_warps=num_warps(head_pad * block_heads),
        )
    return q
