"""Checkpoints of every number format, served in every other."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.engine.parity.harness import Served, assert_parity, steps_of
from tests.engine.parity.oracles import build_oracle, save
from tests.engine.parity.rows import ROWS

LENGTHS = [40, 23]
SEQUENCES = [list(range(3, 43)), list(range(50, 73))]


@pytest.mark.parametrize("served_dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("saved_dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["Llama-gqa", "GPT2-tied"])
def test_any_format_in_any_other(
    name: str, saved_dtype: torch.dtype, served_dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = save(build_oracle(ROWS[name]).to(saved_dtype), tmp_path)
    served = Served(folder, max_model_len=LENGTHS[0], dtype=served_dtype)
    peer, exact = (load(folder, dtype) for dtype in (served_dtype, torch.float64))
    with torch.no_grad():
        for rounded, wide in zip(peer.parameters(), exact.parameters(), strict=True):
            wide.copy_(rounded)
    for given, ids in zip(served.logits(SEQUENCES, steps_of(LENGTHS)), SEQUENCES, strict=True):
        with torch.no_grad():
            theirs, wanted = (model(torch.tensor([ids])).logits[0].double() for model in (peer, exact))
        if served_dtype in (torch.float32, torch.float64):
            assert_parity(given, wanted, 1e-4)
        # In half precision the yardstick is what transformers itself loses to rounding.
        assert (given - wanted).abs().max() <= 1.5 * (theirs - wanted).abs().max() + 1e-5


def load(folder: Path, dtype: torch.dtype) -> Any:
    """The checkpoint in transformers."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
