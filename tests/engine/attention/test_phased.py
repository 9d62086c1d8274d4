"""Two backends as one: each gets its sequences, and the answer is what one backend gives."""

import pytest
import torch

from engine.attention.base import AttentionBackend
from engine.attention.phased import combine, select_sequences
from engine.attention.reference import ReferenceBackend
from engine.batch import BatchTensors
from tests.engine.attention.stepping import PLAIN, assert_equal_steps, spec_of, storage_of

CPU = torch.device("cpu")
planned: list[tuple[str, list[int]]] = []


class _Prefill(ReferenceBackend):
    name, grows_with_context = "one", False

    def plan(self, batch: BatchTensors) -> None:
        planned.append((self.name, batch.query_lens))
        super().plan(batch)


class _Decode(_Prefill):
    name, grows_with_context = "other", True


@pytest.fixture(autouse=True)
def _forget() -> None:
    planned.clear()


def backends() -> list[AttentionBackend]:
    spec = spec_of(PLAIN)
    return [kind(spec, storage_of(spec, CPU)) for kind in (ReferenceBackend, combine(_Prefill, _Decode))]


def test_it_equals_one_backend_step_after_step() -> None:
    assert_equal_steps(spec_of(PLAIN), backends(), CPU)
    # Of the two layers' plans in each step.
    assert planned[::2][:2] == [("one", [20, 7]), ("other", [1, 1])]
    assert set(map(str, planned[4:])) == {str(("other", [1])), str(("one", [12])), str(("one", [21]))}


def test_it_says_that_no_step_is_planned() -> None:
    with pytest.raises(RuntimeError, match="before it planned"):
        backends()[1].forward(0, torch.zeros(1, 6, 16))


def test_one_is_itself_and_two_have_both_names() -> None:
    assert combine(_Decode, _Decode) is _Decode
    both = combine(_Prefill, _Decode)
    assert both.name == "one (prefill), other (decode)"
    assert both.grows_with_context
    assert both.objections(spec_of(PLAIN), torch.float32, CPU, torch.float32, 16) == []


def test_the_tokens_of_some_sequences() -> None:
    tokens = torch.arange(5)
    batch = BatchTensors(
        input_ids=tokens + 10,
        previous_ids=tokens + 20,
        positions=tokens + 30,
        slot_mapping=torch.stack((tokens + 40, tokens + 50)),
        block_tables=torch.arange(12).view(2, 3, 2),
        cu_seqlens_q=torch.tensor([0, 1, 4, 5]),
        seq_lens=torch.tensor([7, 3, 9]),
        pending_places=torch.tensor([4]),
        pending_rows=torch.tensor([0]),
        query_lens=[1, 3, 1],
        seq_lens_list=[7, 3, 9],
    )
    part, token_idx = select_sequences(batch, [0, 2])
    assert token_idx.tolist() == [0, 4]
    assert part.input_ids.tolist() == [10, 14]
    assert part.previous_ids.tolist() == [20, 24]
    assert part.positions.tolist() == [30, 34]
    assert part.slot_mapping.tolist() == [[40, 44], [50, 54]]
    assert part.block_tables.tolist() == [[[0, 1], [4, 5]], [[6, 7], [10, 11]]]
    assert part.cu_seqlens_q.tolist() == [0, 1, 2]
    assert part.seq_lens.tolist() == [7, 9]
    assert part.pending_places.tolist() == part.pending_rows.tolist() == [], "they are in input_ids by now"
    assert (part.query_lens, part.seq_lens_list) == ([1, 1], [7, 9])
