"""What a checkpoint says about itself: config.json, and the headers of its safetensors files. No tensor data is read.

A safetensors file is eight bytes (the length of the header, little-endian), the header (a JSON object: tensor name to
dtype, shape and byte range) and the tensors' bytes, one after the other without gaps.
"""

import json
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from checkpoints.errors import FolderUnreadableError, NotACheckpointError, ShardError, WeightsFileError
from checkpoints.folders import CONFIG_FILE, GENERATION_CONFIG_FILE
from checkpoints.json_files import read_json_object, unique_keys

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""The limit that the safetensors library sets, too."""

DTYPE_BITS = (
    dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
    | dict.fromkeys(("U16", "I16", "F16", "BF16"), 16)
    | dict.fromkeys(("U32", "I32", "F32"), 32)
    | dict.fromkeys(("U64", "I64", "F64", "C64"), 64)
    | {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
)


class TensorHeader(msgspec.Struct, frozen=True):
    """One stored tensor.

    Attributes:
        name: its name in the file.
        dtype: as safetensors calls it, such as BF16.
        shape: empty for a single number.
        file: the file that holds it.
        nbytes: bytes of its data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    nbytes: int


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        NotACheckpointError: there is none.
        FolderUnreadableError: it cannot be read.
        ConfigFileError: it is not a JSON object.
    """
    return read_json_object(folder / CONFIG_FILE)


def read_generation_config(folder: Path) -> dict[str, Any]:
    """The content of generation_config.json; empty where there is no such file, which is no error.

    Raises:
        FolderUnreadableError: it cannot be read.
        ConfigFileError: it is not a JSON object.
    """
    try:
        return read_json_object(folder / GENERATION_CONFIG_FILE)
    except NotACheckpointError:
        return {}


def read_headers(folder: Path) -> dict[str, TensorHeader]:
    """Every tensor of a checkpoint, by name, from one `model.safetensors` or from shards with their index.

    Raises:
        NotACheckpointError: there is neither.
        FolderUnreadableError: the folder or a file cannot be read.
        ConfigFileError: the index is malformed.
        WeightsFileError: a file is truncated or corrupt.
        ShardError: a shard is missing, or index and shards disagree.
    """
    names = _list(folder)
    if WEIGHTS_FILE in names:
        return {header.name: header for header in read_file_headers(folder / WEIGHTS_FILE)}
    if INDEX_FILE in names:
        return _read_shards(folder, names)
    raise NotACheckpointError(
        f"{folder} has no weights",
        expected=f"{WEIGHTS_FILE} or {INDEX_FILE}",
        given=", ".join(sorted(name for name in names if name.endswith((".safetensors", ".bin", ".gguf"))))
        or "neither",
        remedy="Only safetensors are loaded; `headcount import` turns a GGUF file into them",
    )


def read_file_headers(file: Path) -> list[TensorHeader]:
    """The tensors of one safetensors file, in the order of their data.

    Raises:
        FolderUnreadableError: the file cannot be read.
        WeightsFileError: it is truncated or corrupt.
    """
    header, data_bytes = _read_header(file)
    header.pop("__metadata__", None)
    found = [(_byte_range(file, name, entry), _tensor(file, name, entry)) for name, entry in header.items()]
    found.sort(key=lambda pair: pair[0])
    position = 0
    for (begin, end), tensor in found:
        what = f"tensor {tensor.name!r} in {file} is corrupt"
        if begin != position:
            raise WeightsFileError(what, expected=f"data from byte {position} on", given=f"byte {begin}")
        if end - begin != tensor.nbytes:
            expected = f"{tensor.nbytes} bytes for {tensor.dtype} {list(tensor.shape)}"
            raise WeightsFileError(what, expected=expected, given=str(end - begin))
        position = end
    if position != data_bytes:
        state = "is truncated" if data_bytes < position else "has bytes that belong to no tensor"
        raise WeightsFileError(f"{file} {state}", expected=f"{position} bytes of data", given=str(data_bytes))
    return [tensor for _, tensor in found]


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The parsed header, and how many bytes of data follow it."""
    try:
        with file.open("rb") as stream:
            file_bytes = os.fstat(stream.fileno()).st_size
            length = _header_length(file, stream.read(8), file_bytes)
            text = stream.read(length)
    except OSError as error:
        raise FolderUnreadableError(f"cannot read {file} ({error.strerror})") from error
    try:
        header = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise WeightsFileError(f"the header of {file} is corrupt", expected="JSON", given=str(error)) from error
    if not isinstance(header, dict):
        given = type(header).__name__
        raise WeightsFileError(f"the header of {file} is corrupt", expected="a JSON object", given=given)
    return header, file_bytes - 8 - length


def _header_length(file: Path, prefix: bytes, file_bytes: int) -> int:
    if len(prefix) < 8:
        raise WeightsFileError(f"{file} is truncated", expected="at least 8 bytes", given=str(file_bytes))
    length: int = struct.unpack("<Q", prefix)[0]
    if length > MAX_HEADER_BYTES:
        expected = f"at most {MAX_HEADER_BYTES} bytes"
        raise WeightsFileError(f"the header of {file} is too long", expected=expected, given=str(length))
    if length > file_bytes - 8:
        expected = f"{length} bytes of header"
        raise WeightsFileError(f"{file} is truncated", expected=expected, given=str(file_bytes - 8))
    return length


def _byte_range(file: Path, name: str, entry: Any) -> tuple[int, int]:
    offsets: Any = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        what = f"the header entry of tensor {name!r} in {file} is corrupt"
        raise WeightsFileError(what, expected="data_offsets [begin, end]", given=repr(offsets))
    return offsets[0], offsets[1]


def _tensor(file: Path, name: str, entry: dict[str, Any]) -> TensorHeader:
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    what = f"the header entry of tensor {name!r} in {file} is corrupt"
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise WeightsFileError(what, expected=f"a dtype of {', '.join(sorted(DTYPE_BITS))}", given=repr(dtype))
    if not _are_counts(shape):
        raise WeightsFileError(what, expected="a shape of non-negative integers", given=repr(shape))
    num_bits = DTYPE_BITS[dtype]
    for size in shape:
        num_bits *= size
    return TensorHeader(name=name, dtype=dtype, shape=tuple(shape), file=file, nbytes=-(-num_bits // 8))


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _read_shards(folder: Path, names: set[str]) -> dict[str, TensorHeader]:
    shard_of = _weight_map(folder)
    shards = sorted(set(shard_of.values()))
    if missing := [shard for shard in shards if shard not in names]:
        what = f"{len(missing)} of {len(shards)} shards are missing in {folder}: {', '.join(missing)}"
        raise ShardError(what, remedy="Download the model again")
    found = [header for shard in shards for header in read_file_headers(folder / shard)]
    _check_index(folder, shard_of, found)
    return {header.name: header for header in found}


def _check_index(folder: Path, shard_of: dict[str, str], found: Iterable[TensorHeader]) -> None:
    """Index and shards must name the same tensors in the same places, or the shards are not of one model."""
    stored = {(header.name, header.file.name) for header in found}
    for name, shard in shard_of.items():
        if (name, shard) not in stored:
            raise ShardError(f"{folder / shard} lacks the tensor {name!r} that {INDEX_FILE} places there")
    for name, shard in sorted(stored - set(shard_of.items())):
        where = f"in {shard_of[name]}" if name in shard_of else "nowhere"
        raise ShardError(f"{folder / shard} holds the tensor {name!r} that {INDEX_FILE} places {where}")


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map = read_json_object(folder / INDEX_FILE).get("weight_map")
    what = f"{folder / INDEX_FILE} is malformed"
    if not isinstance(weight_map, dict) or not weight_map:
        raise ShardError(what, expected="weight_map, an object of tensor names", given=type(weight_map).__name__)
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or shard != Path(shard).name:
            raise ShardError(what, expected=f"a file name for {name!r}", given=repr(shard))
    return weight_map


def _list(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError as error:
        raise NotACheckpointError(f"{folder} does not exist") from error
    except NotADirectoryError as error:
        raise NotACheckpointError(f"{folder} is a file", expected="a folder") from error
    except OSError as error:
        raise FolderUnreadableError(f"cannot read {folder} ({error.strerror})") from error
