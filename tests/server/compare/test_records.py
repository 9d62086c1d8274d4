"""Results are kept as files, and only so many."""

from pathlib import Path

import msgspec
import pytest

from server.compare import records
from server.compare.records import ComparisonRecord, RecordStore, new_id
from tests.server.compare.small_jobs import make_comparison, make_job


def make_record(created: int = 1) -> ComparisonRecord:
    return ComparisonRecord(new_id(), "demo", created, [9, 3, 1], state="done")


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "kept")
    record = msgspec.structs.replace(make_record(), result=make_comparison(make_job(tmp_path / "m")))
    store.save(record)
    found = store.load(record.id)
    assert msgspec.json.encode(found) == msgspec.json.encode(record)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [f"{record.id}.json"]


def test_the_newest_come_first_and_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_KEPT", 2)
    store = RecordStore(tmp_path)
    for created in (2, 1, 3):
        store.save(make_record(created))
    assert [record.created for record in store.load_all()] == [3, 2]


@pytest.mark.parametrize("name", ["../secret", "cmp-0", "cmp-" + "g" * 16, "", "cmp-" + "0" * 16])
def test_other_names_find_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.json").write_text("{}")
    assert RecordStore(tmp_path / "kept").load(name) is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"id": 3}', b"\xff"])
def test_a_file_that_cannot_be_read_is_no_result(tmp_path: Path, content: bytes) -> None:
    store, good = RecordStore(tmp_path), make_record()
    store.save(good)
    (tmp_path / "cmp-0123456789abcdef.json").write_bytes(content)
    assert [record.id for record in store.load_all()] == [good.id]
