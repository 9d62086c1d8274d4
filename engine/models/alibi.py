"""The slopes of ALiBi. No torch."""


def alibi_slopes(num_heads: int, bias_max: float = 8.0) -> tuple[float, ...]:
    """A slope a head (Press et al. 2021, section 3): 2^-1 .. 2^-8 for 8 heads, sqrt(2) times as dense for 16.

    For a number that is no power of two, the released models take the slopes of the power below, and fill up with every
    other slope of the power above.

    Args:
        num_heads: query heads.
        bias_max: the last slope of a power of two is 2^-bias_max (MPT).
    """
    lower = 1 << (num_heads.bit_length() - 1)
    slopes = _geometric(lower, bias_max)
    return (*slopes, *_geometric(2 * lower, bias_max)[::2][: num_heads - lower])


def _geometric(num_heads: int, bias_max: float) -> tuple[float, ...]:
    return tuple(2.0 ** (-bias_max * (head + 1) / num_heads) for head in range(num_heads))
