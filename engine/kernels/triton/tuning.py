"""Which tiles are fastest on this GPU: timed once, kept as JSON in the user's cache folder. Imports no Triton.

Nothing is timed while a model serves: `tune` is for who asks for it, launches look up what it found, and where it found
nothing they take the tables of tiles.py. One file holds every GPU; a choice belongs to a kernel, a GPU and a class of
shapes whose answers should be the same.
"""

import contextlib
import functools
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from checkpoints.cache import cache_folder
from engine.kernels.triton.tiles import Tile

FILE_NAME = "triton-tiles.json"

_log = logging.getLogger(__name__)
_forced: dict[str, Tile] = {}


class ShapeClass(NamedTuple):
    """What a choice is for.

    Attributes:
        kernel: `prefill` or `decode`.
        head_dim: the wider one of keys and values.
        itemsize: bytes of a query's number.
        kv_itemsize: bytes of a cached number.
        num_q_per_kv: query heads of a KV head.
    """

    kernel: str
    head_dim: int
    itemsize: int
    kv_itemsize: int
    num_q_per_kv: int

    @property
    def key(self) -> str:
        """`decode-128-2-2-4`."""
        return "-".join(map(str, self))


def find_tile(shape: ShapeClass, default: Tile, device: torch.device) -> Tile:
    """The tile that is forced, else the one that was fastest on this device, else the default."""
    if shape.key in _forced:
        return _forced[shape.key]
    if device.type != "cuda":
        return default
    return _choices_of(_gpu_name(device)).get(shape.key, default)


@contextlib.contextmanager
def forced(shape: ShapeClass, tile: Tile) -> Iterator[None]:
    """Launches of this shape take this tile, to be timed."""
    _forced[shape.key] = tile
    try:
        yield
    finally:
        del _forced[shape.key]


def tune(
    shape: ShapeClass,
    candidates: Iterable[Tile],
    measure: Callable[[Tile], float],
    gpu: str,
    path: Path | None = None,
) -> Tile:
    """The fastest candidate, timed only where the file does not know it yet.

    Side effects: the file has it; launches of this process take it from now on.

    Args:
        shape: of the kernel's arguments.
        candidates: to choose from.
        measure: seconds of a launch with this tile; raises where the GPU cannot run it.
        gpu: its name, as PyTorch says it.
        path: of the file; None: in the user's cache folder.

    Raises:
        RuntimeError: the GPU can run none of them.
    """
    path = path or default_path()
    known = read_choices(path)
    if tile := known.get(gpu, {}).get(shape.key):
        return tile
    seconds = {tile: time_s for tile in candidates if (time_s := _try(measure, tile)) is not None}
    if not seconds:
        raise RuntimeError(f"{gpu} can run no tile of {shape.key}")
    best = min(seconds, key=lambda tile: seconds[tile])
    known.setdefault(gpu, {})[shape.key] = best
    write_choices(path, known)
    _choices_of.cache_clear()
    return best


def default_path() -> Path:
    """Where choices are kept."""
    return cache_folder() / "kernels" / FILE_NAME


def read_choices(path: Path) -> dict[str, dict[str, Tile]]:
    """GPU -> key of a shape -> tile. Empty without a file; one that is no such table is left aside, with a warning."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {gpu: {key: _tile_of(numbers) for key, numbers in rows.items()} for gpu, rows in table.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        _log.warning("%s is left aside, tiles are the default ones: %s", path, error)
        return {}


def write_choices(path: Path, choices: dict[str, dict[str, Tile]]) -> None:
    """Replace the file as a whole, so that nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False, encoding="utf-8") as file:
        json.dump(choices, file, indent=1, sort_keys=True)
    Path(file.name).replace(path)


@functools.cache
def _gpu_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


@functools.cache
def _choices_of(gpu: str) -> dict[str, Tile]:
    return read_choices(default_path()).get(gpu, {})


def _tile_of(numbers: Any) -> Tile:
    tile = Tile(*numbers)
    if not all(isinstance(number, int) and number > 0 for number in tile):
        raise ValueError(f"a tile is four numbers over 0, got {numbers}")
    return tile


def _try(measure: Callable[[Tile], float], tile: Tile) -> float | None:
    """None where the GPU has too little shared memory or too few registers for it."""
    try:
        return measure(tile)
    except Exception as error:  # Triton's errors have no common class that could be named without importing it
        _log.info("%s does not run: %s", tile, error)
        return None
