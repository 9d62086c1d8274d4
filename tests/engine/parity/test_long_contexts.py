"""Ropes that depend on the length, beyond the context that they were stretched from.

transformers takes the length of each call; headcount takes max_model_len, once, so that a token's angles never depend
on its neighbours. The two agree on one sequence of max_model_len tokens in one call.
"""

from pathlib import Path

import pytest
import torch

from tests.engine.parity.harness import Served, assert_parity
from tests.engine.parity.oracles import build_oracle, save
from tests.engine.parity.rows.gqa import DYNAMIC, LONGROPE
from tests.engine.parity.rows.row import SMALL, VOCAB_SIZE, rows
from tests.engine.parity.test_families import TOLERANCE

SHORT = {**SMALL, "max_position_embeddings": 24}
LONG = {**LONGROPE, "original_max_position_embeddings": 24}
LENGTH = 40
ROWS = {
    **rows("Llama", SHORT, {"dynamic": {"rope_parameters": DYNAMIC}}),
    **rows("Llama", SMALL, {"longrope": {"rope_parameters": LONG}}),
    **rows("Phi3", SMALL, {"longrope": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 24}}),
    **rows("Nemotron", SHORT, {"dynamic": {"rope_parameters": DYNAMIC, "head_dim": 16}}),
    **rows("Nemotron", SMALL, {"longrope": {"rope_parameters": LONG, "head_dim": 16}}),
}


@pytest.mark.parametrize("name", ROWS)
def test_logits_equal_transformers_beyond_the_trained_context(name: str, tmp_path: Path) -> None:
    model = build_oracle(ROWS[name])
    folder = save(model, tmp_path)
    ids = torch.randint(3, VOCAB_SIZE, (LENGTH,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids.unsqueeze(0)).logits[0]
        within = model(ids[:20].unsqueeze(0)).logits[0]
    assert not torch.allclose(expected[:20], within, rtol=1e-2), "the angles of this row do not depend on the length"
    for kernels in ("reference", "auto"):
        served = Served(folder, LENGTH, kernels=kernels)
        for steps in ([[LENGTH]], [[15], [1], [LENGTH - 16]]):
            assert_parity(served.logits([ids.tolist()], steps)[0], expected, TOLERANCE)
        assert_parity(Served(folder, 20, kernels=kernels).logits([ids[:20].tolist()], [[20]])[0], within, TOLERANCE)
