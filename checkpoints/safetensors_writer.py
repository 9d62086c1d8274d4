"""Writing safetensors tensor by tensor.

The safetensors library takes all tensors of a file in memory at once, and its NumPy side knows no bfloat16. The format
is simple enough to be written as a stream instead, so that a model larger than memory can be imported.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from checkpoints.headers import INDEX_FILE, WEIGHTS_FILE
from checkpoints.json_files import write_json

MAX_SHARD_BYTES = 5_000_000_000
"""Above this, weights are split into shards of at most this size (a single larger tensor makes a larger shard)."""


class TensorToWrite(msgspec.Struct, frozen=True):
    """One tensor whose data is made when its turn comes.

    Attributes:
        name: its name in the file.
        dtype: as safetensors calls it, such as BF16.
        shape: its shape.
        nbytes: bytes of its data.
        data: gives the data, row-major and little-endian, in pieces.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    data: Callable[[], Iterable[bytes]]


def write_weights(
    folder: Path,
    tensors: Sequence[TensorToWrite],
    on_progress: Callable[[int], None],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write `tensors` into `folder`: one file, or shards with their index where they exceed `max_shard_bytes`.

    `on_progress` is called with the number of data bytes written so far.
    """
    write_shards(folder, _split(tensors, max_shard_bytes), on_progress)


def write_shards(folder: Path, shards: Sequence[Sequence[TensorToWrite]], on_progress: Callable[[int], None]) -> None:
    """Write one file for each of `shards` into `folder`, with an index where there are several; see write_weights."""
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    written = 0
    for name, shard in zip(names, shards, strict=True):
        written = _write_file(folder / (name if len(shards) > 1 else WEIGHTS_FILE), shard, written, on_progress)
    if len(shards) > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": written}, "weight_map": weight_map})


def _split(tensors: Sequence[TensorToWrite], max_shard_bytes: int) -> list[list[TensorToWrite]]:
    shards: list[list[TensorToWrite]] = [[]]
    shard_bytes = 0
    for tensor in tensors:
        if shards[-1] and shard_bytes + tensor.nbytes > max_shard_bytes:
            shards.append([])
            shard_bytes = 0
        shards[-1].append(tensor)
        shard_bytes += tensor.nbytes
    return shards


def _write_file(file: Path, tensors: Sequence[TensorToWrite], written: int, on_progress: Callable[[int], None]) -> int:
    with file.open("wb") as stream:
        stream.write(_header(tensors))
        for tensor in tensors:
            expected = written + tensor.nbytes
            for piece in tensor.data():
                stream.write(piece)
                written += len(piece)
                on_progress(written)
            if written != expected:
                raise ValueError(f"{tensor.name}: {tensor.nbytes} bytes announced, {written - expected:+} given")
    return written


def _header(tensors: Sequence[TensorToWrite]) -> bytes:
    # transformers asks for the metadata entry: it refuses weights that do not say which framework's layout they have.
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        offsets = [position, position + tensor.nbytes]
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(entries, separators=(",", ":")).encode()
    # Spaces up to a multiple of eight keep the data aligned for memory mapping.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
