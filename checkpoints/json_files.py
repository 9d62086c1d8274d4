"""JSON files of a checkpoint, read with errors that name the file."""

import json
from pathlib import Path
from typing import Any

from checkpoints.errors import ConfigFileError, FolderUnreadableError, NotACheckpointError


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        NotACheckpointError: there is no such file.
        FolderUnreadableError: the operating system refuses to read it.
        ConfigFileError: it is not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
    except FileNotFoundError as error:
        remedy = "A model folder holds config.json, a tokenizer and safetensors files"
        raise NotACheckpointError(f"{path.parent} has no {path.name}", remedy=remedy) from error
    except OSError as error:
        raise FolderUnreadableError(f"cannot read {path} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigFileError(f"{path} is malformed", expected="JSON", given=str(error)) from error
    if not isinstance(content, dict):
        raise ConfigFileError(f"{path} is malformed", expected="a JSON object", given=type(content).__name__)
    return content


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` that refuses a key given twice, of which Python would silently keep the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as people would want to read it."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
