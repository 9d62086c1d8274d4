"""Decode steps as graphs: the launches of a whole step, recorded once and started with one call.

A graph has fixed shapes and addresses, so there is one for each size of a ladder; a step takes the smallest that holds it.
Rows that are left over compute a token of a spare block, which belongs to no request. What is recorded is the decoder with
its attention; sampling depends on what requests ask for, and stays outside.

What touches CUDA is behind `Capture` (engine/cuda_graph.py).
"""

import functools
import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.attention.base import AttentionBackend
from engine.batch import BatchArrays, BatchTensors, Ints
from engine.kernels.base import Kernels
from engine.models.spec import DecoderSpec, MoESpec
from engine.transfers import send, to_device

logger = logging.getLogger("headcount.engine")

SMALL_SIZES = (1, 2, 4)
SIZE_STEP = 8


class Recorded(NamedTuple):
    """One graph.

    Attributes:
        replay: runs it.
        output: what it writes, at the same place every time; the next replay of any graph may write there too.
    """

    replay: Callable[[], None]
    output: Tensor


class Capture(Protocol):
    """Records launches. All that it records shares one pool of memory."""

    def record(self, run: Callable[[], Tensor]) -> Recorded:
        """Run it to warm up, then record it.

        Raises:
            torch.OutOfMemoryError: there is no room for it.
        """
        ...

    def free_bytes(self) -> int:
        """Memory that can still be taken."""
        ...


class GraphShapes(NamedTuple):
    """What the inputs of graphs look like.

    Attributes:
        num_groups: of layers, each with a block table.
        block_size: tokens in a block.
        max_model_len: longest context.
        spare_block: belongs to no request; rows that are left over write there.
        device: where they are.
    """

    num_groups: int
    block_size: int
    max_model_len: int
    spare_block: int
    device: torch.device


def graph_objections(
    spec: DecoderSpec, backend: type[AttentionBackend], kernels: Kernels, device: torch.device, *, enforce_eager: bool
) -> list[str]:
    """All reasons why decode steps run launch by launch; empty: they can be graphs."""
    reasons = [f"the device is {device.type}"] if device.type != "cuda" else []
    if enforce_eager:
        reasons.append("enforce_eager is set")
    if not backend.is_graphable:
        reasons.append(f"the attention backend {backend.name} plans each step by its lengths")
    if not kernels.has_graphable_experts and any(isinstance(layer.mlp, MoESpec) for layer in spec.layers):
        reasons.append(f"the {kernels.name} kernels read on the host how many tokens each expert got")
    return reasons


def graph_sizes(max_num_seqs: int) -> list[int]:
    """1, 2, 4, 8, 16, 24, … and `max_num_seqs`: at most 7 rows of a larger step are left over."""
    sizes = (*SMALL_SIZES, *range(SIZE_STEP, max_num_seqs, SIZE_STEP))
    return [*(size for size in sizes if size < max_num_seqs), max_num_seqs]


class StaticInputs:
    """The inputs of all graphs, at fixed addresses; a smaller graph reads the first rows of the same tensors.

    Args:
        shapes: of the tensors.
        max_size: rows of the largest graph.
    """

    def __init__(self, shapes: GraphShapes, max_size: int) -> None:
        self._shapes = shapes
        num_blocks = -(-shapes.max_model_len // shapes.block_size)
        self._ints = torch.from_numpy(self._spare_rows(max_size)).to(shapes.device)
        """[4 + num_groups, max_size] int64: input_ids, previous_ids, positions, seq_lens, slots of each group."""
        tables = (shapes.num_groups, max_size, num_blocks)
        self._tables = torch.full(tables, shapes.spare_block, dtype=torch.int64, device=shapes.device)
        self._cu_seqlens_q = torch.arange(max_size + 1, dtype=torch.int64, device=shapes.device)

    def tensors(self, size: int) -> BatchTensors:
        """What a graph of `size` rows reads. On the host, every context is the longest: plans have to do for all."""
        input_ids, previous_ids, positions, seq_lens = self._ints[:4, :size]
        nothing = input_ids[:0]
        return BatchTensors(
            input_ids=input_ids,
            previous_ids=previous_ids,
            positions=positions,
            slot_mapping=self._ints[4:, :size],
            block_tables=self._tables[:, :size],
            cu_seqlens_q=self._cu_seqlens_q[: size + 1],
            seq_lens=seq_lens,
            pending_places=nothing,
            pending_rows=nothing,
            query_lens=[1] * size,
            seq_lens_list=[self._shapes.max_model_len] * size,
        )

    def load(self, arrays: BatchArrays, size: int, sampled: Tensor) -> None:
        """Put a step into the first `size` rows, left-over ones on the spare block. Does not wait for the device.

        Args:
            arrays: of a step in which every sequence computes one token.
            size: of the graph.
            sampled: [num_rows] int64, by the step before.
        """
        _, num_seqs, width = arrays.block_tables.shape
        ints = self._spare_rows(size)
        ints[:, :num_seqs] = (
            arrays.input_ids,
            arrays.previous_ids,
            arrays.positions,
            arrays.seq_lens,
            *arrays.slot_mapping,
        )
        tables = np.full((self._shapes.num_groups, size, width), self._shapes.spare_block, dtype=np.int64)
        tables[:, :num_seqs] = arrays.block_tables
        self._ints[:, :size].copy_(send(torch.from_numpy(ints), self._shapes.device))
        # Further columns keep what they had: kernels read a table as far as seq_lens say.
        self._tables[:, :size, :width].copy_(send(torch.from_numpy(tables), self._shapes.device))
        if arrays.pending_places.size:
            places, rows = to_device([arrays.pending_places, arrays.pending_rows], self._shapes.device)
            self._ints[0][places] = sampled[rows]

    def _spare_rows(self, size: int) -> Ints:
        """Rows that compute the first token of the spare block."""
        rows = np.zeros((4 + self._shapes.num_groups, size), dtype=np.int64)
        rows[3] = 1
        rows[4:] = self._shapes.spare_block * self._shapes.block_size
        return rows


class DecodeGraphs:
    """The graphs of one engine.

    Args:
        inputs: of all of them.
        recorded: by their size; perhaps none.
    """

    def __init__(self, inputs: StaticInputs, recorded: dict[int, Recorded]) -> None:
        self._inputs = inputs
        self._recorded = dict(sorted(recorded.items()))

    @property
    def sizes(self) -> list[int]:
        """Rows of each graph, ascending."""
        return list(self._recorded)

    def size_for(self, arrays: BatchArrays) -> int | None:
        """The smallest graph that holds a step; None: there is none, or a sequence computes more than one token."""
        num_seqs = len(arrays.seq_lens)
        if len(arrays.input_ids) > num_seqs:
            return None
        return next((size for size in self._recorded if size >= num_seqs), None)

    @torch.inference_mode()
    def run(self, arrays: BatchArrays, size: int, sampled: Tensor) -> Tensor:
        """Hidden states [num_seqs, hidden_size] of a step, valid until the next one. Arguments: see StaticInputs.load."""
        self._inputs.load(arrays, size, sampled)
        graph = self._recorded[size]
        graph.replay()
        return graph.output[: len(arrays.seq_lens)]


@torch.inference_mode()
def record_graphs(
    shapes: GraphShapes,
    sizes: Iterable[int],
    *,
    decode: Callable[[BatchTensors, AttentionBackend], Tensor],
    build_attention: Callable[[], AttentionBackend],
    capture: Capture,
    reserved_bytes: int,
) -> DecodeGraphs:
    """Record the decoder at every size, the largest first: the smaller ones then fit into its memory.

    Args:
        shapes: of the inputs.
        sizes: of the graphs.
        decode: a planned step to hidden states.
        build_attention: makes a backend for each graph, which keeps its plan for good.
        capture: records.
        reserved_bytes: that must stay free, for steps without a graph. Sizes for which there is no room are left out.
    """
    descending = sorted(sizes, reverse=True)
    inputs, recorded = StaticInputs(shapes, descending[0]), {}
    for size in descending:
        tensors, attention = inputs.tensors(size), build_attention()
        try:
            if capture.free_bytes() <= reserved_bytes:
                continue
            attention.plan(tensors)
            recorded[size] = capture.record(functools.partial(decode, tensors, attention))
        except torch.OutOfMemoryError:
            continue
    _log_sizes(recorded, descending)
    return DecodeGraphs(inputs, recorded)


def _log_sizes(recorded: Iterable[int], wanted: list[int]) -> None:
    left_out = sorted(set(wanted) - set(recorded))
    logger.info("decode steps of %s requests are graphs", ", ".join(map(str, sorted(recorded))) or "no number of")
    if left_out:
        logger.warning(
            "too little memory for graphs of %s requests: lower --gpu-memory-utilization, or --kv-cache-memory-bytes where"
            " it is set",
            ", ".join(map(str, left_out)),
        )
