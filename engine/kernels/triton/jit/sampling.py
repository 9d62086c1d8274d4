"""A token a row, drawn at random, without sorting the row.

What top-k, top-p and min-p keep is a prefix of the tokens in descending order, equal ones in the order of their ids. So
they come down to a threshold, and how many of the tokens that lie on it are kept; the draw itself is one more such
question. Thresholds are found by bisection over the bits of float32, whose order is that of integers: 32 looks at the row,
which stays in the cache. Sums are in float64, as the reference's: in float32 the last of 100,000 tokens would get lost.
"""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-2139095041)
"""The key of minus infinity; places past the end of a row have a lower one."""


@triton.jit
def draw_kernel(
    out_ptr,  # [num_rows] int64
    logits_ptr,  # [num_rows, vocab_size] float32
    temperature_ptr,  # [num_rows] float32
    uniform_ptr,  # [num_rows] float64
    vocab_size,
    stride_row,
    BLOCK: tl.constexpr,
):
    """The first token at which the running sum, in the order of ids, passes uniform * total. Grid: [num_rows]."""
    row = tl.program_id(0).to(tl.int64)
    row_ptr, temperature = logits_ptr + row * stride_row, tl.load(temperature_ptr + row)
    peak = find_peak(row_ptr, temperature, vocab_size, BLOCK)
    _, total = measure(row_ptr, temperature, peak, LOWEST, vocab_size, BLOCK)
    target = tl.load(uniform_ptr + row) * total
    before, num_passed = total * 0.0, 0
    for start in range(0, vocab_size, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = load_scaled(row_ptr, temperature, ids, vocab_size)
        weights = tl.exp(x - peak).to(tl.float64)
        is_passed = (before + tl.cumsum(weights, 0) <= target) & (ids < vocab_size)
        num_passed += tl.sum(is_passed.to(tl.int32), 0)
        before += tl.sum(weights, 0)
    tl.store(out_ptr + row, tl.minimum(num_passed, vocab_size - 1).to(tl.int64))


@triton.jit
def draw_truncated_kernel(
    out_ptr,  # [num_rows] int64
    logits_ptr,  # [num_rows, vocab_size] float32
    temperature_ptr,  # [num_rows] float32
    uniform_ptr,  # [num_rows] float64
    top_k_ptr,  # [num_rows] int64
    top_p_ptr,  # [num_rows] float32
    min_p_ptr,  # [num_rows] float32
    vocab_size,
    stride_row,
    BLOCK: tl.constexpr,
):
    """The first token at which the running sum, in descending order, passes uniform * kept total. Grid: [num_rows]."""
    row = tl.program_id(0).to(tl.int64)
    row_ptr, temperature = logits_ptr + row * stride_row, tl.load(temperature_ptr + row)
    peak = find_peak(row_ptr, temperature, vocab_size, BLOCK)
    top_k = tl.minimum(tl.load(top_k_ptr + row), vocab_size).to(tl.float64)
    highest = key_of(peak)
    lowest = tl.minimum(highest, LOWEST)
    least = lowest
    if top_k < vocab_size:
        least = search(row_ptr, temperature, peak, lowest, highest, top_k, vocab_size, True, False, BLOCK)
    above, weight_above = measure(row_ptr, temperature, peak, least + 1, vocab_size, BLOCK)
    num_least, weight = top_k - above, tl.exp(value_of(least) - peak).to(tl.float64)
    total = weight_above + num_least * weight
    # top_p: the threshold rises to the last class of equal tokens that begins before the share is reached.
    share = tl.load(top_p_ptr + row).to(tl.float64) * total
    last = search(row_ptr, temperature, peak, least, highest, share, vocab_size, False, False, BLOCK)
    above, weight_above = measure(row_ptr, temperature, peak, last + 1, vocab_size, BLOCK)
    weight = tl.exp(value_of(last) - peak).to(tl.float64)
    num_last = tl.where(weight > 0.0, tl.ceil((share - weight_above) / tl.where(weight > 0.0, weight, 1.0)), vocab_size)
    num_last = tl.where(last == least, tl.minimum(num_last, num_least), num_last)
    # min_p: it rises further, and keeps all tokens of the class that it meets.
    floor = find_floor(row_ptr, temperature, peak, highest, tl.load(min_p_ptr + row), vocab_size, BLOCK)
    num_last = tl.where(floor > last, vocab_size, tl.maximum(num_last, 1.0))
    last = tl.maximum(last, floor)
    above, weight_above = measure(row_ptr, temperature, peak, last + 1, vocab_size, BLOCK)
    up_to, _ = measure(row_ptr, temperature, peak, last, vocab_size, BLOCK)
    num_last = tl.minimum(num_last, up_to - above)
    total = weight_above + num_last * tl.exp(value_of(last) - peak).to(tl.float64)
    # The draw: which class, and which token of it.
    target = tl.load(uniform_ptr + row) * total
    drawn = search(row_ptr, temperature, peak, last, highest, target, vocab_size, False, True, BLOCK)
    above, weight_above = measure(row_ptr, temperature, peak, drawn + 1, vocab_size, BLOCK)
    up_to, _ = measure(row_ptr, temperature, peak, drawn, vocab_size, BLOCK)
    weight = tl.exp(value_of(drawn) - peak).to(tl.float64)
    place = tl.where(weight > 0.0, tl.floor((target - weight_above) / tl.where(weight > 0.0, weight, 1.0)), 0.0)
    place = tl.minimum(tl.maximum(place, 0.0), tl.where(drawn == last, num_last, up_to - above) - 1.0)
    tl.store(out_ptr + row, find_token(row_ptr, temperature, drawn, place.to(tl.int32), vocab_size, BLOCK))


@triton.jit
def load_scaled(row_ptr, temperature, ids, vocab_size):
    """[BLOCK] float32: logits over the temperature, minus infinity past the end. Adding 0 makes one zero of two."""
    x = tl.load(row_ptr + ids, mask=ids < vocab_size, other=float("-inf"))
    return tl.math.div_rn(x, tl.zeros_like(x) + temperature) + 0.0


@triton.jit
def key_of(x):
    """An int32 that grows with a float32."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def value_of(key):
    """Undo key_of."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def find_peak(row_ptr, temperature, vocab_size, BLOCK: tl.constexpr):
    """The largest scaled logit."""
    peak = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, vocab_size, BLOCK):
        peak = tl.maximum(peak, load_scaled(row_ptr, temperature, start + tl.arange(0, BLOCK), vocab_size))
    return tl.max(peak, 0)


@triton.jit
def measure(row_ptr, temperature, peak, least, vocab_size, BLOCK: tl.constexpr):
    """How many tokens have a key of at least `least`, and their weights e^(x - peak) together; float64 both."""
    counts, weights = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    for start in range(0, vocab_size, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = load_scaled(row_ptr, temperature, ids, vocab_size)
        is_in = (key_of(x) >= least) & (ids < vocab_size)
        counts += is_in.to(tl.float64)
        weights += tl.where(is_in, tl.exp(x - peak), 0.0).to(tl.float64)
    return tl.sum(counts, 0), tl.sum(weights, 0)


@triton.jit
def search(
    row_ptr,
    temperature,
    peak,
    low,
    high,
    goal,
    vocab_size,
    BY_COUNT: tl.constexpr,
    IS_PASSED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The largest key in [low, high] down to which count or weight reach the goal (IS_PASSED: pass it); else `low`."""
    low, high = low.to(tl.int64), high.to(tl.int64)
    while low < high:
        middle = (low + high + 1) >> 1
        count, weight = measure(row_ptr, temperature, peak, middle.to(tl.int32), vocab_size, BLOCK)
        reached = count if BY_COUNT else weight
        is_enough = reached > goal if IS_PASSED else reached >= goal
        low = tl.where(is_enough, middle, low)
        high = tl.where(is_enough, high, middle - 1)
    return low.to(tl.int32)


@triton.jit
def find_floor(row_ptr, temperature, peak, highest, min_p, vocab_size, BLOCK: tl.constexpr):
    """The smallest key in the row whose weight is at least min_p of the largest."""
    least = tl.zeros([BLOCK], tl.int32) + highest
    for start in range(0, vocab_size, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = load_scaled(row_ptr, temperature, ids, vocab_size)
        is_in = (tl.exp(x - peak) >= min_p) & (ids < vocab_size)
        least = tl.minimum(least, tl.where(is_in, key_of(x), highest))
    return tl.min(least, 0)


@triton.jit
def find_token(row_ptr, temperature, key, place, vocab_size, BLOCK: tl.constexpr):
    """The id of the token at `place` among those that have this key."""
    token, seen = 0, 0
    for start in range(0, vocab_size, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        is_equal = (key_of(load_scaled(row_ptr, temperature, ids, vocab_size)) == key) & (ids < vocab_size)
        places = seen + tl.cumsum(is_equal.to(tl.int32), 0) - 1
        token = tl.maximum(token, tl.max(tl.where(is_equal & (places == place), ids, 0), 0))
        seen += tl.sum(is_equal.to(tl.int32), 0)
    return tl.cast(token, tl.int64)
