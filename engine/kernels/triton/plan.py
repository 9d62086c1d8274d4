"""What attention is launched with: inputs, options, and the plan that all layers of a step share. Imports no Triton."""

from typing import NamedTuple

import torch
from torch import Tensor

from kvcache.storage import LayerCache


class PagedInputs(NamedTuple):
    """What both kernels read; shapes as in reference.paged_attention."""

    q: Tensor
    cache: LayerCache
    block_tables: Tensor
    cu_seqlens_q: Tensor
    seq_lens: Tensor

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All of them, in the kernels' order."""
        return (self.q, *self.cache, self.block_tables, self.cu_seqlens_q, self.seq_lens)


class ScoreOptions(NamedTuple):
    """What happens to scores; meaning as in reference.paged_attention."""

    softmax_scale: float
    sliding_window: int | None = None
    softcap: float | None = None
    alibi_slopes: Tensor | None = None
    sinks: Tensor | None = None


class AttentionPlan:
    """Made once a step from counts that are known on the host, so that no launch waits for the device.

    Args:
        query_lens: tokens that each sequence computes.
        seq_lens: tokens of each sequence, with those.
        device: where the kernels run.
    """

    def __init__(self, query_lens: list[int], seq_lens: list[int], device: torch.device) -> None:
        self._query_lens, self._device = query_lens, device
        decodes = [seq for seq, query_len in enumerate(query_lens) if query_len == 1]
        self.num_decodes = len(decodes)
        self.has_prefills = any(query_len > 1 for query_len in query_lens)
        self.max_decode_len = max((seq_lens[seq] for seq in decodes), default=0)
        self.decode_seqs = self._to_device(decodes)
        """[num_decodes] int32: the sequences that compute one token."""
        self._tiles: dict[tuple[int, int], Tensor] = {}

    def prefill_tiles(self, block_m: int, num_q_per_kv: int) -> Tensor:
        """[2, num_tiles] int32: sequence and first row of each tile of rows, built once for all layers of a kind.

        Later tiles see more keys and come first. Worked example: query_lens [1, 5], 3 heads a group, 8 rows a tile: 15
        rows of sequence 1 make the tiles [[1, 1], [8, 0]]. Sequence 0 decodes.

        Args:
            block_m: rows of a tile; a row is a token and a head of the group.
            num_q_per_kv: heads of the group.
        """
        key = block_m, num_q_per_kv
        if key not in self._tiles:
            self._tiles[key] = self._build_tiles(block_m, num_q_per_kv)
        return self._tiles[key]

    def _build_tiles(self, block_m: int, num_q_per_kv: int) -> Tensor:
        tiles = [
            (seq, first_row)
            for seq, query_len in enumerate(self._query_lens)
            if query_len > 1
            for first_row in reversed(range(0, query_len * num_q_per_kv, block_m))
        ]
        return self._to_device([seq for seq, _ in tiles] + [first_row for _, first_row in tiles]).view(2, -1)

    def _to_device(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32).to(self._device, non_blocking=True)
