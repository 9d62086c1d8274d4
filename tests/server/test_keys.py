"""API keys: from settings and files, as hashes, read again without losing those in use."""

import logging
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from configs.errors import SettingsError
from configs.http import HTTPSettings
from server.keys import MAX_KEY_FILE_BYTES, Keys, KeySet
from server.salts import key_identity


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def keys_of(**settings: Any) -> Keys:
    return Keys(HTTPSettings(**settings))


def is_let_in(keys: Keys, *given: str) -> list[bool]:
    return [keys.admit(key.encode()) is not None for key in given]


def test_every_key_of_the_file_and_the_one_of_the_settings_open(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", "# who: a\nfirst\n\n  second \r\n#third\nключ\n")
    keys = keys_of(api_key="alone", api_key_file=path)
    assert is_let_in(keys, "first", "second", "ключ", "alone") == [True] * 4
    assert is_let_in(keys, "third", "#third", "", "first ", "firs", "# who: a") == [False] * 6
    assert keys.admit(None) is None


def test_keys_are_kept_as_hashes_only(tmp_path: Path) -> None:
    keys = keys_of(api_key_file=write(tmp_path / "keys", "first\nsecond\n"))
    assert "first" not in repr(vars(keys._api))
    assert keys._api._identities == {key_identity(b"first"), key_identity(b"second")}


def test_an_admin_key_opens_all_and_says_so(tmp_path: Path) -> None:
    keys = keys_of(api_key="user", admin_key_file=write(tmp_path / "admins", "boss\n"))
    user, boss = keys.admit(b"user"), keys.admit(b"boss")
    assert user is not None and not user.is_admin
    assert boss is not None and boss.is_admin
    assert user.identity != boss.identity


def test_reading_again_takes_new_keys_and_drops_old_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", "old\nboth\n")
    keys = keys_of(api_key_file=path)
    write(path, "both\nnew\n")
    assert is_let_in(keys, "old", "both", "new") == [True, True, False]
    keys.reload()
    assert is_let_in(keys, "old", "both", "new") == [False, True, True]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "holds no key"),
        ("# only a comment\n", "holds no key"),
        ("good\ntwo words\n", "line 2 .* holds a blank"),
        ("good\nx\x00y\n", "line 2 .* control character"),
        (b"k\n" * (MAX_KEY_FILE_BYTES // 2 + 1), "at most 1000000 bytes"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_is_an_error_at_the_start_and_changes_nothing_later(
    tmp_path: Path, content: str | bytes | None, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "keys", "s3cret\n")
    keys = keys_of(api_key_file=path)
    path.unlink()
    if content is not None:
        write(path, content)
    with pytest.raises(SettingsError, match=problem):
        keys_of(api_key_file=path)
    with caplog.at_level(logging.ERROR):
        keys.reload()
    assert is_let_in(keys, "s3cret", "good") == [True, False]
    assert "the keys stay as they were" in caplog.text
    assert "s3cret" not in caplog.text and "good" not in caplog.text


def test_the_time_of_a_wrong_key_says_nothing() -> None:
    """Every key is compared, whichever it is: a hit at either end and a miss take the same time."""
    names = [f"key-{i:04d}".encode() for i in range(1000)]
    keys = KeySet(names)
    first, *_, last = (next(name for name in names if key_identity(name) == one) for one in keys._identities)
    almost = last[:-1] + b"?"
    rounds = [[_seconds(keys, name) for name in (first, last, almost, b"nothing like it")] for _ in range(60)]
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    assert max(medians) < 1.5 * min(medians), medians


def _seconds(keys: KeySet, given: bytes) -> float:
    start_s = time.process_time()
    keys.holds(key_identity(given))
    return time.process_time() - start_s
