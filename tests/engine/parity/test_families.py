"""Every family against transformers in float32, position by position."""

from pathlib import Path

import pytest
import torch

from tests.engine.parity.harness import Served, assert_parity, steps_of
from tests.engine.parity.oracles import build_oracle, save
from tests.engine.parity.rows import ROWS
from tests.engine.parity.rows.row import VOCAB_SIZE

TOLERANCE = 1e-4


@pytest.mark.parametrize("name", ROWS)
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    model = build_oracle(row)
    folder = save(model, tmp_path)
    generator = torch.Generator().manual_seed(1)
    lengths = [row.num_positions, row.num_positions // 2 + 3]
    sequences = [torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist() for length in lengths]
    with torch.no_grad():
        expected = [model(torch.tensor([ids])).logits[0] for ids in sequences]
    for kernels in ("reference", "auto"):
        served = Served(folder, max_model_len=row.num_positions, kernels=kernels)
        for given, wanted in zip(served.logits(sequences, steps_of(lengths)), expected, strict=True):
            assert_parity(given, wanted, TOLERANCE)
        assert served.storage.nbytes == served.geometry.bytes_per_block * served.num_blocks
