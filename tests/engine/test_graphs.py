"""Decode graphs without CUDA: which steps take one, what is padded, and that a replayed function gives the same tokens."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import loading, memory
from engine.attention import registry
from engine.attention.reference import ReferenceBackend
from engine.batch import BatchArrays, BatchTensors
from engine.core import EngineCore
from engine.graphs import (
    DecodeGraphs,
    GraphShapes,
    Recorded,
    StaticInputs,
    graph_objections,
    graph_sizes,
    record_graphs,
)
from engine.kernels import reference
from tests.engine.tiny_models import build_model, make_request, prompt, run, save_model, tokens

Load = Callable[..., EngineCore]
CPU = torch.device("cpu")
SHAPES = GraphShapes(num_groups=2, block_size=4, max_model_len=20, spare_block=9, device=CPU)


class StandInCapture:
    """Records a function and runs it again at each replay, into the same output. It counts replays by their rows.

    Args:
        free: answers to `free_bytes`, one after the other; the last one for ever.
    """

    def __init__(self, *free: int) -> None:
        self._free = list(free) or [1 << 40]
        self.replayed: list[int] = []

    def record(self, run: Callable[[], Tensor]) -> Recorded:
        output = run().clone()

        def replay() -> None:
            self.replayed.append(len(output))
            output.copy_(run())

        return Recorded(replay, output)

    def free_bytes(self) -> int:
        return self._free.pop(0) if len(self._free) > 1 else self._free[0]


class ReplannedBackend(ReferenceBackend):
    """The reference made fit for graphs: it plans from the tensors in each replay, not from counts on the host."""

    name = "replanned"
    is_graphable = True

    def plan(self, batch: BatchTensors) -> None:
        self._recorded = batch
        super().plan(batch)

    def forward(self, layer_idx: int, *args: Any) -> Tensor:
        if layer_idx == 0:
            super().plan(self._recorded)
        return super().forward(layer_idx, *args)


def step_of(
    seq_lens: list[int], query_lens: list[int] | None = None, pending: dict[int, int] | None = None
) -> BatchArrays:
    """A step over two groups; sequence i has blocks 10 * i + 10, … in the first and 10 * i + 15, … in the second.

    Args:
        seq_lens: of each sequence.
        query_lens: of each; None: all decode.
        pending: sequence -> row of what was sampled before.
    """
    query_lens = query_lens or [1] * len(seq_lens)
    width = -(-max(seq_lens) // 4)
    firsts = 10 * np.arange(len(seq_lens)) + 10
    tables = np.stack([firsts[:, None] + np.arange(width) + 5 * group for group in range(2)])
    num_tokens = sum(query_lens)
    cu_seqlens_q = np.concatenate(([0], np.cumsum(query_lens)))
    return BatchArrays(
        input_ids=np.arange(num_tokens) + 50,
        previous_ids=np.arange(num_tokens) + 30,
        positions=np.array(seq_lens)[np.repeat(np.arange(len(seq_lens)), query_lens)] - 1,
        slot_mapping=np.arange(2 * num_tokens).reshape(2, -1) + 40,
        block_tables=tables,
        cu_seqlens_q=cu_seqlens_q,
        seq_lens=np.array(seq_lens),
        pending_places=np.array(list(pending or {}), dtype=np.int64),
        pending_rows=np.array(list((pending or {}).values()), dtype=np.int64),
    )


@pytest.mark.parametrize(
    ("max_num_seqs", "expected"),
    [
        (1, [1]),
        (2, [1, 2]),
        (7, [1, 2, 4, 7]),
        (8, [1, 2, 4, 8]),
        (20, [1, 2, 4, 8, 16, 20]),
        (32, [1, 2, 4, 8, 16, 24, 32]),
    ],
)
def test_the_ladder(max_num_seqs: int, expected: list[int]) -> None:
    assert graph_sizes(max_num_seqs) == expected


def test_the_smallest_graph_that_holds_a_step_of_decodes() -> None:
    graphs = DecodeGraphs(StaticInputs(SHAPES, 8), dict.fromkeys((8, 1, 4), Recorded(lambda: None, torch.empty(0))))
    assert graphs.sizes == [1, 4, 8]
    found = [graphs.size_for(step_of([5] * num_seqs)) for num_seqs in (1, 2, 4, 5, 8, 9)]
    assert found == [1, 4, 4, 8, 8, None]
    assert graphs.size_for(step_of([5, 6], query_lens=[1, 2])) is None


def test_left_over_rows_are_on_the_spare_block() -> None:
    inputs = StaticInputs(SHAPES, 4)
    inputs.load(step_of([19, 20, 18]), 4, torch.empty(0, dtype=torch.int64))
    inputs.load(step_of([3, 6], pending={1: 2}), 4, torch.tensor([71, 72, 73]))
    tensors = inputs.tensors(4)
    assert tensors.input_ids.tolist() == [50, 73, 0, 0]
    assert tensors.previous_ids.tolist() == [30, 31, 0, 0]
    assert tensors.positions.tolist() == [2, 5, 0, 0]
    assert tensors.seq_lens.tolist() == [3, 6, 1, 1]
    assert tensors.slot_mapping.tolist() == [[40, 41, 36, 36], [42, 43, 36, 36]]
    assert tensors.block_tables[:, :, :2].tolist() == [
        [[10, 11], [20, 21], [9, 9], [9, 9]],
        [[15, 16], [25, 26], [9, 9], [9, 9]],
    ]
    assert tensors.cu_seqlens_q.tolist() == [0, 1, 2, 3, 4]


def test_a_smaller_graph_reads_the_first_rows_of_the_same_memory() -> None:
    inputs = StaticInputs(SHAPES, 4)
    small, large = inputs.tensors(2), inputs.tensors(4)
    inputs.load(step_of([3, 6]), 2, torch.empty(0, dtype=torch.int64))
    assert small.input_ids.tolist() == large.input_ids[:2].tolist() == [50, 51]
    for one, other in zip(small[:4], large[:4], strict=True):
        assert isinstance(one, Tensor)
        assert one.data_ptr() == other.data_ptr()
    # What a kernel gets of a group is contiguous.
    assert small.block_tables[1].is_contiguous()
    assert small.slot_mapping[1].is_contiguous()


def record(capture: StandInCapture, fails_at: tuple[int, ...] = ()) -> DecodeGraphs:
    def decode(tensors: BatchTensors, _: object) -> Tensor:
        if len(tensors.seq_lens) in fails_at:
            raise torch.OutOfMemoryError
        return tensors.input_ids.double().unsqueeze(1)

    class Attention:
        def plan(self, batch: BatchTensors) -> None:
            assert set(batch.seq_lens_list) == {20}

    return record_graphs(
        SHAPES,
        [1, 2, 4, 8],
        decode=decode,
        build_attention=Attention,  # type: ignore[arg-type]
        capture=capture,
        reserved_bytes=100,
    )


def test_a_replay_sees_what_was_loaded_and_nothing_of_the_rest() -> None:
    capture = StandInCapture()
    graphs = record(capture)
    for num_seqs, size in ((3, 4), (8, 8), (1, 1)):
        arrays = step_of([5] * num_seqs)
        out = graphs.run(arrays, size, torch.empty(0, dtype=torch.int64))
        assert out.flatten().tolist() == [50 + row for row in range(num_seqs)]
    assert capture.replayed == [4, 8, 1]


def test_sizes_without_room_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert record(StandInCapture(), fails_at=(8,)).sizes == [1, 2, 4]
        assert record(StandInCapture(200, 101, 100)).sizes == [4, 8]
    assert "too little memory for graphs of 8 requests" in caplog.text
    assert "too little memory for graphs of 1, 2 requests: lower --gpu-memory-utilization" in caplog.text


def test_without_any_room_there_are_no_graphs() -> None:
    graphs = record(StandInCapture(0))
    assert graphs.sizes == []
    assert graphs.size_for(step_of([5])) is None


def test_every_objection_is_told(tiny_llama: Path) -> None:
    from engine.checkpoint import read_checkpoint

    spec = read_checkpoint(tiny_llama).spec
    told = graph_objections(spec, ReferenceBackend, reference, CPU, enforce_eager=True)  # type: ignore[arg-type]
    assert told == [
        "the device is cpu",
        "enforce_eager is set",
        "the attention backend reference plans each step by its lengths",
    ]
    gpu = torch.device("cuda")
    assert graph_objections(spec, ReplannedBackend, reference, gpu, enforce_eager=False) == []  # type: ignore[arg-type]


def test_the_meter_counts_what_the_driver_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter([(1000, 300), (700, 500)])
    monkeypatch.setattr(memory.GraphMeter, "_measure", lambda _: next(states))
    assert memory.GraphMeter(CPU, spare_bytes=7).read() == (307, 100)


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> StandInCapture:
    """Engines that are loaded from now on replay functions."""
    capture = StandInCapture()
    for table in ("PREFILL", "DECODE"):
        monkeypatch.setattr(registry, table, (ReplannedBackend,))
    monkeypatch.setattr(loading, "CudaCapture", lambda _: capture)
    monkeypatch.setattr(loading, "graph_objections", lambda *_, enforce_eager: ["eager"] if enforce_eager else [])
    return capture


@pytest.mark.parametrize("overlap", ["off", "on"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_an_engine_gives_the_same_tokens(
    family: str, overlap: str, tmp_path: Path, load: Load, capture: StandInCapture
) -> None:
    window = {"sliding_window": 7} if family == "mistral" else {}
    folder = save_model(build_model(family, **window), tmp_path)
    limits = {"max_num_seqs": 5, "max_num_batched_tokens": 64, "max_model_len": 64}
    found = []
    for enforce_eager in (True, False):
        core = load(folder, enable_overlap=overlap, enforce_eager=enforce_eager, **limits)
        assert bool(capture.replayed) is False
        requests = [
            make_request(
                str(i), prompt(3 + 4 * i, seed=i), max_tokens=20 + 3 * i, temperature=1.2, seed=i, ignore_eos=True
            )
            for i in range(6)
        ]
        found.append({name: tokens(deltas) for name, deltas in run(core, requests).items()})
    assert found[0] == found[1]
    assert {4, 5} <= set(capture.replayed) <= {1, 2, 4, 5}


def test_the_spare_block_is_counted_as_the_graphs_own(tiny_llama: Path, load: Load, capture: StandInCapture) -> None:
    plain, graphed = (load(tiny_llama, enforce_eager=eager, max_num_seqs=2).info for eager in (True, False))
    assert graphed.num_blocks == plain.num_blocks
    assert graphed.ledger.kv_cache_bytes == plain.ledger.kv_cache_bytes
    assert plain.ledger.graphs_bytes == 0
    assert graphed.ledger.graphs_bytes >= graphed.geometry.bytes_per_block
    assert list(graphed.startup_s)[-1] == "graphs"
