"""Memory of one layer: what is alive at the same time while it runs."""

from engine.models.spec import DecoderSpec, LayerSpec, MLPSpec, MoESpec, NormKind
from engine.quantization import GROUP_SIZE, num_groups, stored_depth
from engine.workspace.attention import INDEX_BYTES, attention_bytes
from engine.workspace.method import Method
from engine.workspace.step_size import StepSize

WIDENED_ROWS = 512
"""src/linear.c and src/linear_int8.c: CHUNK."""


def fused_bytes(spec: DecoderSpec, widths: tuple[int, ...], size: StepSize, method: Method) -> int:
    """All layers in one native call: its scratch, and what the widest kernel takes besides.

    Args:
        spec: of the model.
        widths: columns of the scratch tensors.
        size: of the step.
        method: on what it runs.
    """
    scratch = size.num_rows * sum(widths) * method.dtype_bytes
    attend = max(
        attention_bytes(layer, size, method) - size.num_rows * layer.o_width * method.dtype_bytes
        for layer in spec.layers
    )
    depth = max(spec.hidden_size, widths[2], widths[4])
    return scratch + max(attend, product_bytes(size.num_rows, depth, max(widths), method))


def product_bytes(num_rows: int, depth: int, width: int, method: Method) -> int:
    """What a matrix product [num_rows, depth] -> [num_rows, width] takes beside its input and its output."""
    if method.is_int8:
        return _int8_product_bytes(num_rows, depth, width, method)
    if not method.is_native or method.dtype_bytes == 4:
        return 0
    return 4 * min(num_rows, WIDENED_ROWS) * depth


def _int8_product_bytes(num_rows: int, depth: int, width: int, method: Method) -> int:
    """Native: the input's integers, scales and sums. Reference: engine.kernels.int8_linear.linear_int8, in float32."""
    if method.is_native:
        return min(num_rows, WIDENED_ROWS) * (stored_depth(depth) + 8 * num_groups(depth))
    rounding, integers, sums = 16 * num_rows * depth, 4 * num_rows * depth, 4 * num_rows * width
    return max(rounding, integers + 3 * sums + widened_group_bytes(width) - num_rows * width * method.dtype_bytes)


def widened_group_bytes(width: int) -> int:
    """A group of columns of an 8-bit weight in float32, as linear_int8 of the reference multiplies it."""
    return 4 * width * GROUP_SIZE


def layer_bytes(spec: DecoderSpec, layer: LayerSpec, size: StepSize, method: Method) -> int:
    """One layer on kernels that are called one by one, its input aside."""
    x = size.num_rows * spec.hidden_size * method.dtype_bytes
    norm = norm_bytes(spec.norm.kind, size.num_rows * spec.hidden_size, method)
    sums = x if method.is_native else 2 * x
    attend = _attention_half(spec, layer, size, method)
    if isinstance(layer.mlp, MoESpec):
        mlp = _moe_bytes(layer.mlp, spec.hidden_size, size.num_rows, method)
    else:
        mlp = _mlp_bytes(layer.mlp, spec.hidden_size, size.num_rows, method, sums)
    # The MLP has the sum after the attention beside the layer's input, and its norm beside both.
    return max(norm, x + attend, x + norm, 2 * x + mlp)


def norm_bytes(kind: NormKind, num_numbers: int, method: Method) -> int:
    """Most memory of a norm, its output included."""
    if method.is_native and kind is NormKind.RMS:
        return num_numbers * method.dtype_bytes
    if kind is NormKind.LAYER:
        return num_numbers * method.dtype_bytes
    return num_numbers * (method.wide_bytes * 2)


def _attention_half(spec: DecoderSpec, layer: LayerSpec, size: StepSize, method: Method) -> int:
    """From the normed input to the sum."""
    num_rows, dtype_bytes = size.num_rows, method.dtype_bytes
    x = num_rows * spec.hidden_size * dtype_bytes
    qkv_width = layer.q_width + layer.k_width + layer.v_width
    qkv = num_rows * qkv_width * dtype_bytes
    turning = 0
    if layer.rope and (not method.is_native or layer.rope.is_interleaved):
        # Queries and keys are turned one after the other, and there are no fewer queries.
        half = num_rows * layer.num_q_heads * layer.rope.rotary_dim // 2 * method.wide_bytes
        turning = 4 * half + (2 * half if dtype_bytes < 4 else 0)
    # Normalised keys are gone when they are in the cache.
    q_normed, k_normed = (
        num_rows * width * dtype_bytes * bool(layer.qk_norm) for width in (layer.q_width, layer.k_width)
    )
    out = num_rows * layer.o_width * dtype_bytes
    sums = x if method.is_native else 2 * x
    return max(
        qkv + product_bytes(num_rows, spec.hidden_size, qkv_width, method),
        qkv * (1 if layer.qkv_clip is None else 2),
        qkv + q_normed + k_normed + turning,
        qkv + q_normed + attention_bytes(layer, size, method),
        qkv + q_normed + out + sums + product_bytes(num_rows, layer.o_width, spec.hidden_size, method),
    )


def _mlp_bytes(mlp: MLPSpec, hidden_size: int, num_rows: int, method: Method, sums: int) -> int:
    up = num_rows * mlp.up_width * method.dtype_bytes
    activated = num_rows * mlp.intermediate_size * method.dtype_bytes
    return max(
        up + product_bytes(num_rows, hidden_size, mlp.up_width, method),
        up + activated,
        activated + sums + product_bytes(num_rows, mlp.intermediate_size, hidden_size, method),
    )


def _moe_bytes(moe: MoESpec, hidden_size: int, num_rows: int, method: Method) -> int:
    """Rows are there once for each expert they go to, and up, activated and out until the sum is made."""
    num_sent = num_rows * moe.num_experts_per_token
    routing = num_sent * (2 * method.dtype_bytes + 3 * INDEX_BYTES)
    up = num_sent * moe.expert.up_width * method.dtype_bytes
    activated = num_sent * moe.expert.intermediate_size * method.dtype_bytes
    out = num_sent * hidden_size * method.dtype_bytes
    parts = 2 if method.is_native else 1  # native: a product an expert, then all of them in one tensor
    return routing + max(
        out + parts * up,
        up + activated + parts * out,
        up + activated + 3 * out + num_rows * hidden_size * method.dtype_bytes,
    )
