"""A GGUF file, opened: typed metadata and the tensors, still quantized."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from gguf import GGUFReader, ReaderTensor

from checkpoints.errors import FolderUnreadableError, GGUFError, ModelNotFoundError, UnsupportedModelError

T = TypeVar("T", int, float, str, bool)

MAGIC = b"GGUF"


class GGUFFile:
    """Read access to one GGUF file.

    Attributes:
        path: the file.
        tensors: its tensors by name. Their data is memory-mapped and quantized.

    Raises:
        ModelNotFoundError: there is no such file.
        FolderUnreadableError: it cannot be read.
        GGUFError: it is no GGUF file, truncated or corrupt.
        UnsupportedModelError: it is big-endian, or one part of several.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_magic(path)
        self._reader = _open(path)
        self.tensors: dict[str, ReaderTensor] = {tensor.name: tensor for tensor in self._reader.tensors}
        self._values: dict[str, Any] = {}
        if self.find("split.count") not in (None, 0, 1):
            remedy = "Merge its parts into one file first"
            raise UnsupportedModelError(f"{path} is one part of a split model", remedy=remedy)

    @property
    def architecture(self) -> str:
        """The architecture in llama.cpp's words, such as "llama"."""
        return self.require("general.architecture", str)

    def find(self, key: str) -> Any:
        """The metadata value at `key`, or None. Arrays come as lists."""
        if key not in self._values:
            field = self._reader.get_field(key)
            try:
                self._values[key] = None if field is None else field.contents()
            except (IndexError, ValueError) as error:
                raise GGUFError(f"metadata {key!r} of {self.path} is corrupt ({error})") from error
        return self._values[key]

    def get(self, key: str, kind: type[T], default: T) -> T:
        """The value at `key`, or `default` where it is absent.

        Raises:
            GGUFError: it is of another kind.
        """
        value = self.find(key)
        if value is None:
            return default
        if kind is float and type(value) in (int, float):
            # A float32 such as 1e-5 reads as 9.999999747378752e-06; the shortest decimal that rounds to it was meant.
            return kind(str(np.float32(value)))
        if type(value) is not kind:
            given = f"{type(value).__name__} {str(value)[:80]}"
            raise GGUFError(f"metadata {key!r} of {self.path}", expected=kind.__name__, given=given)
        found: T = kind(value)
        return found

    def require(self, key: str, kind: type[T]) -> T:
        """The value at `key`.

        Raises:
            GGUFError: it is absent or of another kind.
        """
        if self.find(key) is None:
            raise GGUFError(f"{self.path} lacks the metadata {key!r}")
        return self.get(key, kind, kind())

    def list_of(self, key: str, kind: type[T]) -> list[T]:
        """The array at `key`; empty where it is absent.

        Raises:
            GGUFError: it is no array of `kind`.
        """
        values = self.find(key)
        if values is None:
            return []
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise GGUFError(f"metadata {key!r} of {self.path}", expected=f"an array of {kind.__name__}")
        return values


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path} does not exist") from error
    except OSError as error:
        raise FolderUnreadableError(f"cannot read {path} ({error.strerror})", expected="a GGUF file") from error
    if start[:4] != MAGIC:
        raise GGUFError(f"{path} is no GGUF file", expected=f"it to begin with {MAGIC!r}", given=repr(start[:4]))
    # The version is a small number: where its low half is zero, its bytes are in the other order.
    if len(start) == 8 and not any(start[4:6]):
        raise UnsupportedModelError(f"{path} is big-endian", remedy="Convert it to little-endian first")


def _open(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    # What the reader raises on a damaged file depends on where it stumbles.
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        remedy = "It may be truncated: compare its size with the original's"
        raise GGUFError(f"{path} is corrupt ({type(error).__name__}: {error})", remedy=remedy) from error
