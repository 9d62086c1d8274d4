"""What a folder says about its model beside its tensors: which tokens end a text."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoints.errors import ConfigFileError
from engine.checkpoint import read_checkpoint
from engine.core import EngineCore
from engine.request import FinishReason
from tests.engine.tiny_models import make_request, prompt, run, tokens


def copy(model: Path, folder: Path, generation_config: dict[str, Any] | None, **config: Any) -> Path:
    """`model` with other values in its config, and this generation_config.json or none."""
    shutil.copytree(model, folder, dirs_exist_ok=True)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | config))
    (folder / "generation_config.json").unlink(missing_ok=True)
    if generation_config is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation_config))
    return folder


@pytest.mark.parametrize(
    ("generation_config", "config", "expected"),
    [
        ({"eos_token_id": 5}, 7, [5]),
        ({"eos_token_id": [5, 6, 5]}, 7, [5, 6]),
        ({"eos_token_id": [5]}, None, [5]),
        ({"eos_token_id": 0}, 7, [0]),
        ({"eos_token_id": []}, 7, []),
        ({"eos_token_id": None}, 7, [7]),
        ({}, [7, 8], [7, 8]),
        (None, 7, [7]),
        (None, None, []),
        ({"eos_token_id": [5, -1, 10**6]}, 7, [5]),
    ],
)
def test_end_tokens(
    tiny_llama: Path, tmp_path: Path, generation_config: dict[str, Any] | None, config: Any, expected: list[int]
) -> None:
    folder = copy(tiny_llama, tmp_path, generation_config, eos_token_id=config)
    assert read_checkpoint(folder).eos_token_ids == expected


@pytest.mark.parametrize("value", ["</s>", 2.0, True, {"id": 2}, [2, "3"], [[2]], [None]])
@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_end_tokens_of_a_wrong_type(tiny_llama: Path, tmp_path: Path, name: str, value: Any) -> None:
    is_config = name == "config.json"
    folder = copy(tiny_llama, tmp_path, None if is_config else {"eos_token_id": value}, eos_token_id=value)
    message = rf"eos_token_id in .*/{name} is malformed: expected a token id, or a list of them, got "
    with pytest.raises(ConfigFileError, match=message):
        read_checkpoint(folder)


def test_each_of_several_end_tokens_ends_an_output(
    tiny_llama: Path, tmp_path: Path, load: Callable[..., EngineCore]
) -> None:
    free = tokens(run(load(tiny_llama), [make_request("free", prompt(8), ignore_eos=True)])["free"])
    others = [i for i in range(3, 60) if i not in free][:2]
    for place in (0, len(free) // 2):
        folder = copy(tiny_llama, tmp_path / str(place), {"eos_token_id": [others[0], free[place], others[1]]})
        core = load(folder)
        deltas = run(core, [make_request("r", prompt(8))])["r"]
        assert tokens(deltas) == free[: free.index(free[place]) + 1]
        assert deltas[-1].finish_reason is FinishReason.STOP
        assert deltas[-1].stop_token_id == free[place]
        put_off = tokens(run(core, [make_request("m", prompt(8), min_tokens=4, max_tokens=6)])["m"])
        assert free[place] not in put_off[:4]


def test_an_end_token_that_cannot_come_is_no_trouble(
    tiny_llama: Path, tmp_path: Path, load: Callable[..., EngineCore]
) -> None:
    core = load(copy(tiny_llama, tmp_path, {"eos_token_id": [10**6]}))
    deltas = run(core, [make_request("r", prompt(8), min_tokens=3, max_tokens=5)])["r"]
    assert len(tokens(deltas)) == 5
