"""Attention of a text, asked of an engine that serves: equal to transformers', and nobody else notices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.core import EngineCore
from engine.messages import AskAttention, AttentionAnswer
from engine.process import EngineProcess
from tests.engine.tiny_models import build_model, make_request, prompt, run, tokens

IDS = tuple(prompt(12))
NUM_HEADS = 6


def unpack(packed: bytes) -> np.ndarray[Any, Any]:
    """[num_q_heads, seq_len, seq_len] between 0 and 1."""
    weights = np.zeros((NUM_HEADS, len(IDS), len(IDS)))
    rows, columns = np.tril_indices(len(IDS))
    weights[:, rows, columns] = np.frombuffer(packed, "<u2").reshape(NUM_HEADS, -1) / 65535
    return weights


def test_they_are_those_of_transformers(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    model = build_model("llama", attn_implementation="eager")
    with torch.inference_mode():
        expected = model(torch.tensor([IDS]), output_attentions=True).attentions
    found = load(tiny_llama).attention_maps(IDS, [0, 1, 2])
    for packed, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(unpack(packed), wanted[0].numpy(), atol=1e-4)


def test_layers_come_as_they_are_asked_for(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    core = load(tiny_llama)
    every = core.attention_maps(IDS, [0, 1, 2])
    assert core.attention_maps(IDS, [2]) == every[2:]
    assert len(set(every)) == 3


def test_requests_that_run_do_not_notice(tiny_llama: Path, load: Callable[..., EngineCore]) -> None:
    core = load(tiny_llama)
    alone = tokens(run(core, [make_request("a", prompt(9))])["a"])
    core.add(make_request("b", prompt(9), ignore_eos=True))
    found = []
    while core.has_requests:
        found += [token_id for delta in core.step() for token_id in delta.token_ids]
        core.attention_maps(IDS, [0])
        core.check_integrity()
    assert found[: len(alone)] == alone


def test_what_fails_is_told_and_ends_nothing(
    tiny_llama: Path, load: Callable[..., EngineCore], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = load(tiny_llama)
    process = EngineProcess(core, None)  # type: ignore[arg-type]  # nothing is sent here

    def fail(*_: object) -> list[bytes]:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(core, "attention_maps", fail)
    question = AskAttention(IDS, (0,))
    answer = process._look_at_attention(question)
    assert answer == AttentionAnswer(question, error=answer.error)
    assert "ran out of memory" in str(answer.error)
