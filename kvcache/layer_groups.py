"""Which layers share a block table. Pure arithmetic.

A sliding-window layer needs a block only until the window has passed it, a full layer for ever; so they cannot share a
table. But they can share a pool: layers are cut into groups of equally many layers, and a block is block_size tokens of
one group, whichever that is. Layer i of every group lies in the same tensor.

With 4 full layers and 22 with a window (Gemma 3 1B) that makes groups of 4: one full, six with a window, the last of them
with 2 places left empty. With 12 of each (gpt-oss) there are two groups of 12.
"""

from collections.abc import Hashable, Sequence

import msgspec


class LayerGroup(msgspec.Struct, frozen=True):
    """Layers with one block table.

    Attributes:
        layer_indices: the layers; the i-th of every group share a tensor.
        sliding_window: of all of them; None: they keep every token.
    """

    layer_indices: tuple[int, ...]
    sliding_window: int | None

    def first_block(self, num_computed_tokens: int, block_size: int) -> int:
        """Index of the first block that the token at position `num_computed_tokens` still needs, and all after it."""
        if self.sliding_window is None:
            return 0
        return max(0, num_computed_tokens + 1 - self.sliding_window) // block_size

    def num_blocks(self, num_tokens: int, block_size: int, num_scheduled_tokens: int = 1) -> int:
        """Blocks that a request of `num_tokens` tokens holds at most, in steps of at most `num_scheduled_tokens`."""
        all_blocks = -(-num_tokens // block_size)
        if self.sliding_window is None:
            return all_blocks
        # The span of one step: its own tokens, and what the first of them sees; it may begin at the end of a block.
        span = self.sliding_window - 1 + num_scheduled_tokens
        return min(all_blocks, -(-(span - 1) // block_size) + 1)


def group_layers(shapes: Sequence[Hashable], windows: Sequence[int | None]) -> tuple[LayerGroup, ...]:
    """The groups of a model, full layers first.

    Args:
        shapes: what a token's keys and values look like, a layer each. Where layers of different windows differ in it,
            they cannot lie in the same tensor: all of them become one group that keeps every token.
        windows: sliding window of each layer; None: it sees all tokens.
    """
    by_window: dict[int | None, list[int]] = {}
    for layer_idx, window in enumerate(windows):
        by_window.setdefault(window, []).append(layer_idx)
    if len(by_window) == 1:
        return (LayerGroup(tuple(range(len(windows))), windows[0]),)
    if len(set(shapes)) > 1:
        return (LayerGroup(tuple(range(len(windows))), None),)
    size = min(map(len, by_window.values()))
    order = sorted(by_window, key=lambda window: (window is not None, window or 0))
    return tuple(
        LayerGroup(tuple(by_window[window][start : start + size]), window)
        for window in order
        for start in range(0, len(by_window[window]), size)
    )
