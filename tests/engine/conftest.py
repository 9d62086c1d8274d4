"""Checkpoints and engines for the tests of this room."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.core import EngineCore
from engine.loading import load_engine
from tests.engine.tiny_models import build_model, save_model, settings


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GQA llama: 6 query heads on 2 KV heads."""
    return save_model(build_model("llama"), tmp_path_factory.mktemp("llama"))


@pytest.fixture
def load() -> Iterator[Callable[..., EngineCore]]:
    """load(folder, **settings) -> EngineCore; afterwards every block must be free and the books must add up."""
    cores: list[EngineCore] = []

    def build(folder: Path, **overrides: Any) -> EngineCore:
        cores.append(load_engine(folder, settings(**overrides)))
        return cores[-1]

    yield build
    for core in cores:
        core.check_integrity()
        if not core.has_requests:
            assert core.take_stats().num_used_blocks == 0
