"""The keys that open the server: from the settings and from files, kept as hashes only."""

import hmac
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from configs.errors import SettingsError
from configs.http import HTTPSettings
from server.salts import key_identity

logger = logging.getLogger("headcount.server")

MAX_KEY_FILE_BYTES = 1_000_000


class Access(NamedTuple):
    """What a request may do.

    Attributes:
        identity: tells requests with different keys apart; empty where none was asked for.
        is_admin: it may see others' requests.
    """

    identity: bytes
    is_admin: bool


class KeySet:
    """Keys that open the same.

    Args:
        keys: as clients send them; only their hashes are kept.
    """

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._identities = frozenset(map(key_identity, keys))

    def __len__(self) -> int:
        return len(self._identities)

    def holds(self, identity: bytes) -> bool:
        """Whether this is the hash of one of them. Takes the same time whichever it is, or none."""
        is_found = False
        for known in self._identities:
            is_found |= hmac.compare_digest(known, identity)
        return is_found


class Keys:
    """The API keys and admin keys of a server.

    Args:
        http: the keys, and the files of more.

    Raises:
        SettingsError: a file cannot be read, or is not a list of keys.
    """

    def __init__(self, http: HTTPSettings) -> None:
        self._http = http
        self._api, self._admin = self._read()

    def reload(self) -> None:
        """Read the files again. Where one cannot be used all keys stay as they are, and the log says why."""
        try:
            self._api, self._admin = self._read()
        except SettingsError as error:
            logger.error("the keys stay as they were: %s", error)
        else:
            logger.info("%d API keys and %d admin keys are in use", len(self._api), len(self._admin))

    def admit(self, given: bytes | None) -> Access | None:
        """What a request with this key may do; None where it has to stay outside.

        An admin key opens everything. Where there is none, whoever may come in is an admin.
        """
        identity = key_identity(given or b"")
        is_user, is_admin = self._api.holds(identity), self._admin.holds(identity)
        if is_user or is_admin:
            return Access(identity, is_admin or not self._admin)
        return None if self._api else Access(b"", not self._admin)

    def _read(self) -> tuple[KeySet, KeySet]:
        http = self._http
        return _read_keys(http.api_key, http.api_key_file), _read_keys(http.admin_key, http.admin_key_file)


def _read_keys(key: SecretStr | None, path: Path | None) -> KeySet:
    from_file = _read_file(path) if path else []
    return KeySet([key.get_secret_value().encode(), *from_file] if key else from_file)


def _read_file(path: Path) -> list[bytes]:
    """One key a line, blanks around it aside; empty lines and comments are left out.

    Raises:
        SettingsError: it cannot be read, is too large, holds no key, or one that no header could carry.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"cannot read the key file {path}: {error.strerror or error}") from None
    if len(content) > MAX_KEY_FILE_BYTES:
        raise SettingsError(f"the key file {path} must hold at most {MAX_KEY_FILE_BYTES} bytes, one key a line")
    lines = [line.strip() for line in content.splitlines()]
    keys = [line for line in lines if line and not line.startswith(b"#")]
    if not keys:
        raise SettingsError(f"the key file {path} holds no key; write one a line")
    for number, line in enumerate(lines, 1):
        if not line.startswith(b"#") and any(byte <= 0x20 or byte == 0x7F for byte in line):
            raise SettingsError(
                f"line {number} of the key file {path} holds a blank or a control character inside a key"
            )
    return keys
