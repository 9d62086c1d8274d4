"""Comparisons that a server made or makes, and the files in which their results are kept."""

import logging
import re
import secrets
import time
from pathlib import Path
from typing import Literal

import msgspec

from server.compare.report import Comparison, Progress

logger = logging.getLogger("headcount.compare")

MAX_KEPT = 100
ID = re.compile(r"cmp-[0-9a-f]{16}")

State = Literal["running", "done", "failed", "stopped"]


class ComparisonRecord(msgspec.Struct, frozen=True):
    """One comparison.

    Attributes:
        id: its name.
        model: the served model whose variants are compared.
        created: Unix time of its start.
        num_kv_heads: of its variants.
        progress: where it is, while it runs.
        error: why it failed.
        result: what it found, once it is done.
    """

    id: str
    model: str
    created: int
    num_kv_heads: list[int]
    state: State = "running"
    progress: Progress | None = None
    error: str | None = None
    result: Comparison | None = None


class Ended(msgspec.Struct, frozen=True, tag="end", tag_field="type"):
    """The last event of a comparison."""

    state: State
    error: str | None = None


def new_id() -> str:
    """A name that no other comparison has."""
    return f"cmp-{secrets.token_hex(8)}"


def new_record(model: str, num_kv_heads: list[int]) -> ComparisonRecord:
    """A comparison that begins now."""
    return ComparisonRecord(new_id(), model, int(time.time()), num_kv_heads)


class RecordStore:
    """Ended comparisons as files, the oldest of which go when there are many.

    Args:
        folder: made when the first one is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, record: ComparisonRecord) -> None:
        """Keep a comparison; the file is there in full or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f".{record.id}.part"
        part.write_bytes(msgspec.json.encode(record))
        part.replace(self._path(record.id))
        for old in self.load_all()[MAX_KEPT:]:
            self.remove(old.id)

    def load(self, record_id: str) -> ComparisonRecord | None:
        """The comparison of that name; None where none is kept, or its file cannot be read."""
        if not ID.fullmatch(record_id):
            return None
        try:
            return msgspec.json.decode(self._path(record_id).read_bytes(), type=ComparisonRecord)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning("the comparison %s cannot be read: %s", record_id, error)
            return None

    def load_all(self) -> list[ComparisonRecord]:
        """All that are kept, the newest first."""
        found = [self.load(path.stem) for path in self._folder.glob("cmp-*.json")]
        return sorted((record for record in found if record), key=lambda record: (-record.created, record.id))

    def remove(self, record_id: str) -> None:
        """Keep it no longer."""
        self._path(record_id).unlink(missing_ok=True)

    def _path(self, record_id: str) -> Path:
        return self._folder / f"{record_id}.json"
