"""PyTorch's threads while the engine computes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from engine.attention.cpu import CpuBackend
from engine.core import EngineCore
from engine.torch_threads import torch_threads
from tests.engine.tiny_models import make_request, prompt

Load = Callable[..., EngineCore]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_they_are_as_many_as_before_when_the_block_ends() -> None:
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), torch_threads(1):
        raise KeyError
    assert torch.get_num_threads() == 2
    with torch_threads(None):
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_on_native_kernels_has_one(
    dtype: str, tiny_llama: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, seen = load(tiny_llama, dtype=dtype), []
    launch = core._runner.launch
    monkeypatch.setattr(core._runner, "launch", lambda *args: seen.append(torch.get_num_threads()) or launch(*args))
    core.add(make_request("r", prompt(4), max_tokens=2))
    while core.has_requests:
        core.step()
    assert set(seen) == {1 if core.info.attention_backend == CpuBackend.name else torch.get_num_threads()}
