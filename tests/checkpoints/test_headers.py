"""Headers of safetensors files: what is read, and every way in which one can be wrong."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from checkpoints.errors import ConfigFileError, FolderUnreadableError, NotACheckpointError, ShardError, WeightsFileError
from checkpoints.headers import TensorHeader, read_config, read_file_headers, read_generation_config, read_headers
from tests.checkpoints.gguf_models import unprivileged


def write_raw(file: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


def entry(begin: object, end: object, dtype: object = "F32", shape: object = (1,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write_shards(folder: Path, weight_map: dict[str, object] | None = None) -> Path:
    save_file({"a": np.zeros(2, np.float32)}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": np.zeros(3, np.float16)}, folder / "model-00002-of-00002.safetensors")
    weight_map = weight_map or {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_single_file(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.int8)}, file, metadata={"format": "pt"})
    assert read_headers(tmp_path) == {
        "a": TensorHeader("a", "F32", (2, 3), file, 24),
        "b": TensorHeader("b", "I8", (), file, 1),
    }


def test_shards(tmp_path: Path) -> None:
    headers = read_headers(write_shards(tmp_path))
    assert {name: (header.file.name, header.nbytes) for name, header in headers.items()} == {
        "a": ("model-00001-of-00002.safetensors", 8),
        "b": ("model-00002-of-00002.safetensors", 6),
    }


def test_no_tensor_data_is_read(tmp_path: Path) -> None:
    file = write_raw(tmp_path / "model.safetensors", {"a": entry(0, 1 << 40, "U8", [1 << 40])})
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size + (1 << 40))
    assert read_headers(tmp_path)["a"].nbytes == 1 << 40


def test_numbers_smaller_than_a_byte(tmp_path: Path) -> None:
    file = write_raw(tmp_path / "x.safetensors", {"a": entry(0, 2, "F4", [2, 2])}, b"12")
    assert read_file_headers(file)[0].nbytes == 2


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{", b"", r"the header of .* is corrupt: expected JSON"),
        (b"\xff{}", b"", r"the header of .* is corrupt: expected JSON"),
        (b"[" * 5000, b"", r"the header of .* is corrupt: expected JSON"),
        ([], b"", r"expected a JSON object, got list"),
        (b'{"a": {}, "a": {}}', b"", r"got the key 'a' twice"),
        ({"a": 1}, b"", r"tensor 'a' .* expected data_offsets \[begin, end\], got None"),
        ({"a": entry(0, "4")}, b"1234", r"got \[0, '4'\]"),
        ({"a": entry(4, 0)}, b"1234", r"got \[4, 0\]"),
        ({"a": entry(-4, 0)}, b"1234", r"got \[-4, 0\]"),
        ({"a": entry(0, True)}, b"1234", r"got \[0, True\]"),
        ({"a": entry(0, 4, "F33")}, b"1234", r"expected a dtype of BF16, .*, got 'F33'"),
        ({"a": entry(0, 4, ["F32"])}, b"1234", r"got \['F32'\]"),
        ({"a": entry(0, 4, "F32", [-1])}, b"1234", r"expected a shape of non-negative integers, got \[-1\]"),
        ({"a": entry(0, 4, "F32", None)}, b"1234", r"expected a shape of non-negative integers, got None"),
        ({"a": entry(0, 4, "F32", [2])}, b"1234", r"expected 8 bytes for F32 \[2\], got 4"),
        ({"a": entry(4, 8)}, b"12345678", r"tensor 'a' .* expected data from byte 0 on, got byte 4"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, b"1" * 12, r"'b' .* expected data from byte 4 on, got byte 8"),
        ({"a": entry(0, 4), "b": entry(2, 6)}, b"1" * 6, r"'b' .* expected data from byte 4 on, got byte 2"),
        ({"a": entry(0, 4)}, b"123", r"is truncated: expected 4 bytes of data, got 3"),
        ({"a": entry(0, 4)}, b"12345", r"has bytes that belong to no tensor: expected 4 bytes of data, got 5"),
    ],
)
def test_damaged_header(tmp_path: Path, header: object, data: bytes, message: str) -> None:
    with pytest.raises(WeightsFileError, match=message):
        read_file_headers(write_raw(tmp_path / "x.safetensors", header, data))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is truncated: expected at least 8 bytes, got 0"),
        (b"1234567", "is truncated: expected at least 8 bytes, got 7"),
        (struct.pack("<Q", 3) + b"{}", "is truncated: expected 3 bytes of header, got 2"),
        (struct.pack("<Q", 100_000_001), "is too long: expected at most 100000000 bytes, got 100000001"),
    ],
)
def test_damaged_prefix(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(WeightsFileError, match=message):
        read_file_headers(tmp_path / "x.safetensors")


def test_every_truncation_of_a_file_is_seen(tmp_path: Path) -> None:
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros(1, np.int8)}, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(WeightsFileError):
            read_file_headers(tmp_path / "cut")


def test_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ShardError, match=r"1 of 2 shards are missing in .*: model-00002-of-00002\.safetensors\. Down"):
        read_headers(tmp_path)


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": FIRST, "b": SECOND, "c": FIRST}, f"{FIRST} lacks the tensor 'c' that .* places there"),
        ({"a": SECOND, "b": FIRST}, f"{SECOND} lacks the tensor 'a'"),
        ({"a": FIRST}, None),
        ({"a": "../model.safetensors"}, r"expected a file name for 'a', got '\.\./model\.safetensors'"),
        ({"a": 1}, r"expected a file name for 'a', got 1"),
    ],
)
def test_index_and_shards_disagree(tmp_path: Path, weight_map: dict[str, object], message: str | None) -> None:
    write_shards(tmp_path, weight_map)
    if message is None:  # a shard that the index does not mention is not part of the checkpoint
        assert list(read_headers(tmp_path)) == ["a"]
        return
    with pytest.raises(ShardError, match=message):
        read_headers(tmp_path)


def test_shard_holds_more_than_the_index_says(tmp_path: Path) -> None:
    write_shards(tmp_path)
    save_file({"a": np.zeros(2, np.float32), "x": np.zeros(1, np.int8)}, tmp_path / FIRST)
    with pytest.raises(ShardError, match=f"{FIRST} holds the tensor 'x' that .* places nowhere"):
        read_headers(tmp_path)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_index_without_weight_map(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ShardError, match="expected weight_map, an object of tensor names"):
        read_headers(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(NotACheckpointError, match=r"has no weights: .*, got pytorch_model\.bin\. Only safetensors"):
        read_headers(tmp_path)
    with pytest.raises(NotACheckpointError, match="does not exist"):
        read_headers(tmp_path / "absent")
    with pytest.raises(NotACheckpointError, match="is a file: expected a folder"):
        read_headers(tmp_path / "pytorch_model.bin")


def test_unreadable(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / FIRST).chmod(0)
    tmp_path.chmod(0)
    with unprivileged(), pytest.raises(FolderUnreadableError, match=r"cannot read .* \(Permission denied\)"):
        read_headers(tmp_path)
    with unprivileged(), pytest.raises(FolderUnreadableError, match=r"cannot read .* \(Permission denied\)"):
        read_file_headers(tmp_path / FIRST)
    with unprivileged(), pytest.raises(FolderUnreadableError, match=r"cannot read .* \(Permission denied\)"):
        read_config(tmp_path)
    tmp_path.chmod(0o700)


def test_configs(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert read_config(tmp_path) == {"a": 1}
    assert read_generation_config(tmp_path) == {}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    assert read_generation_config(tmp_path) == {"eos_token_id": [2, 0]}


@pytest.mark.parametrize(("text", "message"), [("{", "expected JSON"), ("[]", "expected a JSON object, got list")])
def test_malformed_configs(tmp_path: Path, text: str, message: str) -> None:
    for name, read in (("config.json", read_config), ("generation_config.json", read_generation_config)):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigFileError, match=f"{name} is malformed: {message}"):
            read(tmp_path)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpointError, match=r"has no config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize("module", ["headers", "demo", "resolve", "gguf_import"])
def test_no_torch(module: str) -> None:
    code = f"import sys, checkpoints.{module}; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
