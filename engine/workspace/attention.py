"""Memory of one layer's attention: the query, key and value heads are there, what they attend to is not."""

from engine.models.spec import LayerSpec
from engine.workspace.method import Method
from engine.workspace.step_size import StepSize

RUN_BYTES = 64
"""src/attention.c: Run."""
RUN_ROWS = 72
"""src/attention.c: BLOCK_ROWS."""
INDEX_BYTES = 8
SCALE_BYTES = 2


def plan_bytes(layers: tuple[LayerSpec, ...], num_groups: int, size: StepSize, method: Method) -> int:
    """What the backend keeps for all layers of a step: the reference, which key each query may see."""
    if method.is_native:
        return 0
    windows = {layer.sliding_window for layer in layers}
    total = 0
    for num_seqs, query_len, seq_len in size.batches:
        total += 2 * INDEX_BYTES * num_seqs * query_len
        total += num_groups * INDEX_BYTES * (num_seqs + 1) * seq_len
        total += sum(num_seqs * query_len * num_keys(query_len, seq_len, window) for window in windows)
    return total


def num_keys(query_len: int, seq_len: int, window: int | None) -> int:
    """Keys that some query of a sequence sees."""
    return seq_len if window is None else min(seq_len, query_len + window - 1)


def attention_bytes(layer: LayerSpec, size: StepSize, method: Method) -> int:
    """Most memory at a time from queries, keys and values to the output, the output included."""
    out = size.num_rows * layer.o_width * method.dtype_bytes
    if method.is_native:
        return out + _run_bytes(layer, size)
    return out + max(_batch_bytes(layer, batch, method) for batch in size.batches)


def _run_bytes(layer: LayerSpec, size: StepSize) -> int:
    tokens_per_run = max(1, RUN_ROWS // (layer.num_q_heads // layer.num_kv_heads))
    num_runs = size.num_rows // tokens_per_run + len(size.chunks) + size.num_decodes
    return RUN_BYTES * num_runs * layer.num_kv_heads


def _batch_bytes(layer: LayerSpec, batch: tuple[int, int, int], method: Method) -> int:
    """engine.kernels.reference_attention.grouped_attention."""
    num_seqs, query_len, seq_len = batch
    keys = num_keys(query_len, seq_len, layer.sliding_window)
    number_bytes = method.wide_bytes if method.is_kv_8bit else method.dtype_bytes
    q = num_seqs * query_len * layer.q_width * number_bytes
    k = num_seqs * keys * layer.k_width * number_bytes
    v = num_seqs * keys * layer.v_width * number_bytes
    out = num_seqs * query_len * layer.o_width * number_bytes
    num_q_per_kv = layer.num_q_heads // layer.num_kv_heads
    num_masked = num_seqs * query_len * num_q_per_kv * keys
    # Query heads that share a KV head are laid side by side: a copy of them, and of the mask.
    grouped = q + num_masked if num_q_per_kv > 1 else 0
    is_plain = layer.softcap is None and layer.alibi_slopes is None and not layer.has_sinks
    held = q + k + v + grouped
    if is_plain and layer.k_head_dim == layer.v_head_dim:
        # PyTorch's fused kernel turns the mask into numbers; it keeps a sum for each row, and no scores.
        sums = num_seqs * query_len * layer.num_q_heads * method.wide_bytes
        tiles = _tile_bytes(query_len * num_q_per_kv, keys, layer.k_head_dim, method)
        numbers = num_masked * number_bytes
        attend = held + max(numbers + num_masked, numbers + out + sums + tiles, 2 * out)
    else:
        attend = held + _score_bytes(layer, num_masked * layer.num_kv_heads, batch, keys, method)
    return max(attend, q + k + _widening_bytes(layer, num_seqs * keys, method)) if method.is_kv_8bit else attend


def _widening_bytes(layer: LayerSpec, num_keys: int, method: Method) -> int:
    """8-bit values as they were read, what they become, and that times their scales; keys are done by then."""
    numbers = num_keys * layer.v_width
    scales = num_keys * layer.num_kv_heads
    return numbers * (1 + 2 * method.wide_bytes) + scales * (SCALE_BYTES + method.wide_bytes)


def _tile_bytes(num_rows: int, num_keys: int, head_dim: int, method: Method) -> int:
    """PyTorch's fused CPU kernel (FlashAttention.cpp): a tile of scores and one of the output a thread."""
    tile_rows = next(rows for least, rows in ((768, 256), (192, 64), (0, 32)) if num_rows >= least)
    return method.num_threads * tile_rows * (min(512, num_keys) + 2 + head_dim) * method.wide_bytes


def _score_bytes(layer: LayerSpec, num_scores: int, batch: tuple[int, int, int], keys: int, method: Method) -> int:
    """Scores that exist in full, in float32 or wider."""
    num_seqs, query_len, _ = batch
    scores = num_scores * method.wide_bytes
    has_bias = layer.alibi_slopes is not None
    is_narrow = method.dtype_bytes < method.wide_bytes and not method.is_kv_8bit
    bias = num_scores * 4 if has_bias else 0  # in float32 always: float64 scores take a copy of it
    copied = scores if has_bias and method.wide_bytes > 4 else 0
    # Each operation has its result beside its input; soft-cap and sinks take a third.
    alive = 3 if layer.softcap is not None or layer.has_sinks else 2
    keys_again = num_seqs * keys * layer.k_width * method.wide_bytes
    widened = keys_again + num_seqs * query_len * layer.q_width * method.wide_bytes if is_narrow else 0
    narrowed = num_scores * method.dtype_bytes if is_narrow else 0
    most = max(widened, copied, narrowed, (alive - 2) * scores + num_scores // layer.num_q_heads)
    return bias + max(2 * scores + most, scores + widened + keys_again)
