"""The tokens that stand beside a tokenizer's own vocabulary, and what tokenizer_config.json says about it.

Checkpoints list them in two ways. Newer ones have `added_tokens_decoder` in tokenizer_config.json: id to spelling and
flags. Older ones have added_tokens.json (spelling to id) and special_tokens_map.json (role to spelling), which count
only where the newer list is absent, as in transformers.
"""

from pathlib import Path
from typing import Any

import msgspec
from tokenizers import AddedToken

from checkpoints.errors import ConfigFileError
from checkpoints.json_files import read_json_object
from checkpoints.tokenizer_files import check_size, exists

CONFIG_FILE = "tokenizer_config.json"
MAP_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
DECODER_KEY = "added_tokens_decoder"

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA_KEYS = ("additional_special_tokens", "extra_special_tokens")
FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
MAX_TOKEN_ID = 2**31 - 1


class TokenizerConfig(msgspec.Struct, frozen=True):
    """What the small files beside a vocabulary say.

    Attributes:
        folder: where they are.
        values: tokenizer_config.json, with what special_tokens_map.json adds.
        added: tokens by id.
    """

    folder: Path
    values: dict[str, Any]
    added: dict[int, AddedToken]

    def flag(self, name: str) -> bool | None:
        """A setting that is on or off; None where it is not there.

        Raises:
            ConfigFileError: it is something else.
        """
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise _malformed(self.folder / CONFIG_FILE, f"{name}: true or false", value)
        return value

    def text(self, name: str) -> str:
        """A setting that is text; empty where it is not there.

        Raises:
            ConfigFileError: it is something else.
        """
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise _malformed(self.folder / CONFIG_FILE, f"{name}: text", value)
        return value or ""

    def with_defaults(self, roles: dict[str, str]) -> "TokenizerConfig":
        """The same, with tokens for roles that the files do not mention."""
        return msgspec.structs.replace(self, values=roles | self.values)

    def role(self, name: str) -> str:
        """Spelling of the token in a role of `ROLES`; empty where there is none."""
        token = self._token(name, self.values.get(name))
        return "" if token is None else str(token.content)

    def special(self) -> dict[str, AddedToken]:
        """Tokens with a role, and the others that are listed as special, by spelling.

        Raises:
            ConfigFileError: an entry is no token.
        """
        named = {name: value for name, value in self.values.items() if _is_role(name, value)}
        for key in EXTRA_KEYS:
            extra = self.values.get(key) or []
            entries = extra.items() if isinstance(extra, dict) else enumerate(_as_list(self.folder, key, extra))
            named |= {f"{key}[{place}]": value for place, value in entries}
        tokens = [self._token(name, value) for name, value in named.items()]
        return {str(token.content): token for token in tokens if token is not None}

    def place(self, ids: dict[str, int]) -> dict[int, AddedToken]:
        """All added tokens, by id.

        A special token that has no id anywhere is left out: the model never saw it.

        Args:
            ids: the vocabulary, spelling to id.

        Raises:
            ConfigFileError: a token has two ids.
        """
        special = self.special()
        placed = {}
        for token_id, token in self.added.items():
            spelling = str(token.content)
            if ids.get(spelling, token_id) != token_id:
                raise _malformed(self.folder, f"id {ids[spelling]} for the added token {spelling!r}", token_id)
            token.special = token.special or spelling in special
            placed[token_id] = token
        spelled = {str(token.content) for token in placed.values()}
        if len(spelled) != len(placed):
            raise _malformed(self.folder, "one id for each added token", f"{len(placed)} ids of {len(spelled)} tokens")
        missing = {ids[spelling]: token for spelling, token in special.items() if spelling in ids.keys() - spelled}
        return dict(sorted((placed | missing).items()))

    def _token(self, name: str, value: Any) -> AddedToken | None:
        if value is None or value == "":
            return None
        entry = {"content": value, "normalized": False} if isinstance(value, str) else value
        return _read_token(self.folder / CONFIG_FILE, name, entry, special=True)


def read_tokenizer_config(folder: Path) -> TokenizerConfig:
    """What tokenizer_config.json, special_tokens_map.json and added_tokens.json of `folder` say; each may be absent.

    Raises:
        FolderUnreadableError: one cannot be read.
        ConfigFileError: one is malformed.
        TokenizerFileError: one is too large.
    """
    values = _read_optional(folder / CONFIG_FILE)
    if DECODER_KEY in values:
        return TokenizerConfig(folder, values, _from_decoder(folder / CONFIG_FILE, values[DECODER_KEY]))
    config = TokenizerConfig(folder, values | _read_optional(folder / MAP_FILE), {})
    return msgspec.structs.replace(config, added=_from_added_file(folder / ADDED_FILE, set(config.special())))


def _from_decoder(path: Path, entries: Any) -> dict[int, AddedToken]:
    if not isinstance(entries, dict):
        raise _malformed(path, f"{DECODER_KEY}: an object of ids", entries)
    added = {}
    for key, entry in entries.items():
        if not (key.isascii() and key.isdigit() and int(key[:11]) <= MAX_TOKEN_ID):
            raise _malformed(path, f"a token id in {DECODER_KEY}", key)
        added[int(key)] = _read_token(path, f"{DECODER_KEY}[{key}]", entry, special=False)
    return added


def _from_added_file(path: Path, special: set[str]) -> dict[int, AddedToken]:
    added = {}
    for spelling, token_id in _read_optional(path).items():
        if type(token_id) is not int or not 0 <= token_id <= MAX_TOKEN_ID or token_id in added:
            raise _malformed(path, f"an id of its own for {spelling!r}", token_id)
        is_special = spelling in special
        entry = {"content": spelling, "normalized": not is_special}
        added[token_id] = _read_token(path, repr(spelling), entry, special=is_special)
    return added


def _read_token(path: Path, name: str, entry: Any, *, special: bool) -> AddedToken:
    content = entry.get("content") if isinstance(entry, dict) else None
    if not isinstance(content, str) or not content:
        raise _malformed(path, f"{name}: a token's spelling, or an object with its content", entry)
    flags = {name: entry[name] for name in FLAGS if name in entry}
    is_special = special or entry.get("special", False)
    if not all(isinstance(flag, bool) for flag in (is_special, *flags.values())):
        raise _malformed(path, f"{name}: flags that are true or false", entry)
    return AddedToken(content, special=is_special, **flags)


def _is_role(name: str, value: Any) -> bool:
    """True also for roles that only one family knows, such as image_token."""
    return name in ROLES or (name.endswith("_token") and isinstance(value, str))


def _read_optional(path: Path) -> dict[str, Any]:
    if not exists(path):
        return {}
    check_size(path)
    return read_json_object(path)


def _as_list(folder: Path, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _malformed(folder / CONFIG_FILE, f"{key}: a list of tokens", value)
    return value


def _malformed(path: Path, expected: str, given: Any) -> ConfigFileError:
    return ConfigFileError(f"{path} is malformed", expected=expected, given=repr(given)[:200])
