"""Folders that appear in full or not at all."""

import threading
from pathlib import Path

import pytest

from checkpoints.folders import building, exclusive


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_appears_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "[m]*"
    with exclusive(folder), building(folder) as part:
        (part / "a").write_text("new")
        assert not folder.exists()
    assert (folder / "a").read_text() == "new"
    assert names_in(folder.parent) == ["[m]*"]


def test_an_exception_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "a").write_text("old")
    with pytest.raises(RuntimeError), exclusive(folder), building(folder) as part:
        (part / "a").write_text("new")
        raise RuntimeError
    assert (folder / "a").read_text() == "old"
    assert names_in(tmp_path) == ["m"]


def test_leftovers_of_this_folder_only_are_removed(tmp_path: Path) -> None:
    for name in (".m.part-1", ".m2.part-1", ".m.party"):
        (tmp_path / name).mkdir()
    with exclusive(tmp_path / "m"):
        assert names_in(tmp_path) == [".m.lock", ".m.party", ".m2.part-1"]


@pytest.mark.timeout(60)
def test_one_at_a_time(tmp_path: Path) -> None:
    """Every holder removes the lock file as it leaves; those who wait must notice that theirs is no longer the one."""
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with exclusive(tmp_path / "m"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 160
    assert max(most) == 1
