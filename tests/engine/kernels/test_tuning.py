"""Tiles are timed once per GPU and shape, kept on disk, and looked up by launches."""

from pathlib import Path

import pytest
import torch

from engine.kernels.triton import tuning
from engine.kernels.triton.tiles import Tile
from engine.kernels.triton.tuning import ShapeClass, find_tile, read_choices, tune

SHAPE = ShapeClass("decode", 128, 2, 2, 4)
SLOW, FAST, TOO_LARGE = Tile(16, 64, 4, 3), Tile(16, 128, 4, 2), Tile(128, 128, 8, 4)
GPU = torch.device("cuda")


class Timer:
    """Seconds of each tile, and which were asked for."""

    def __init__(self) -> None:
        self.asked: list[Tile] = []

    def __call__(self, tile: Tile) -> float:
        self.asked.append(tile)
        if tile == TOO_LARGE:
            raise RuntimeError("out of resource: shared memory")
        return {SLOW: 2.0, FAST: 1.0}[tile]


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache" / tuning.FILE_NAME
    monkeypatch.setattr(tuning, "default_path", lambda: path)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H200")
    tuning._choices_of.cache_clear()
    return path


def test_the_fastest_that_runs_is_kept_and_not_timed_again(path: Path) -> None:
    timer = Timer()
    assert find_tile(SHAPE, SLOW, GPU) == SLOW
    for _ in range(2):
        assert tune(SHAPE, [SLOW, TOO_LARGE, FAST], timer, "H200") == FAST
    assert timer.asked == [SLOW, TOO_LARGE, FAST]
    assert read_choices(path) == {"H200": {"decode-128-2-2-4": FAST}}
    assert [file.name for file in path.parent.iterdir()] == [tuning.FILE_NAME]
    assert find_tile(SHAPE, SLOW, GPU) == FAST


def test_other_shapes_gpus_and_processors_have_their_own() -> None:
    tune(SHAPE, [FAST], Timer(), "H200")
    assert tune(SHAPE, [SLOW], Timer(), "A100") == SLOW
    assert tune(SHAPE._replace(num_q_per_kv=8), [SLOW], Timer(), "H200") == SLOW
    assert find_tile(SHAPE, SLOW, GPU) == FAST
    assert find_tile(SHAPE._replace(kernel="prefill"), SLOW, GPU) == SLOW
    assert find_tile(SHAPE, SLOW, torch.device("cpu")) == SLOW


def test_where_nothing_runs_it_says_so(path: Path) -> None:
    with pytest.raises(RuntimeError, match="H200 can run no tile of decode-128-2-2-4"):
        tune(SHAPE, [TOO_LARGE], Timer(), "H200")
    assert not path.exists()


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"H200": 3}', '{"H200": {"a": [1, 2]}}', '{"H200": {"a": [1, 2, 3, -4]}}', '{"a": {"b": "abcd"}}'],
)
def test_a_damaged_file_is_left_aside(text: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_text(text)
    assert find_tile(SHAPE, SLOW, GPU) == SLOW
    assert "left aside" in caplog.text
    assert tune(SHAPE, [FAST], Timer(), "H200") == FAST
    assert read_choices(path)["H200"] == {SHAPE.key: FAST}
