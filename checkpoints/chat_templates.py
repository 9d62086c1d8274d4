"""Where a checkpoint keeps its chat templates."""

from pathlib import Path
from typing import Any

from checkpoints.added_tokens import CONFIG_FILE
from checkpoints.errors import ConfigFileError, FolderUnreadableError
from checkpoints.json_files import read_json_object
from checkpoints.tokenizer_files import check_size, exists, read_text

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
JSON_FILE = "chat_template.json"
DEFAULT = "default"


def read_chat_templates(folder: Path, tokenizer_config: dict[str, Any]) -> dict[str, str]:
    """Jinja texts by name; "default" is the one for plain conversations.

    They come from, and later ones win: chat_template.json (as processors of images had it), tokenizer_config.json (one
    text, or a list of named ones), chat_template.jinja, and additional_chat_templates/NAME.jinja.

    Args:
        folder: the checkpoint.
        tokenizer_config: the content of its tokenizer_config.json.

    Raises:
        CheckpointError: a file cannot be read or is malformed.
    """
    json_path = folder / JSON_FILE
    found = {}
    if exists(json_path):
        check_size(json_path)
        found = _named(json_path, read_json_object(json_path))
    found |= _named(folder / CONFIG_FILE, tokenizer_config)
    if exists(folder / TEMPLATE_FILE):
        found[DEFAULT] = read_text(folder / TEMPLATE_FILE)
    return found | {path.stem: read_text(path) for path in _jinja_files(folder / TEMPLATE_FOLDER)}


def _named(path: Path, content: dict[str, Any]) -> dict[str, str]:
    """`chat_template` of a JSON file: a text, or a list of objects with a name and a text."""
    source = content.get("chat_template")
    if source is None:
        return {}
    entries = source if isinstance(source, list) else [{"name": DEFAULT, "template": source}]
    named = {}
    for entry in entries:
        name, template = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(template, str):
            expected = "a text, or a list of objects with a name and a template"
            raise ConfigFileError(f"chat_template in {path} is malformed", expected=expected, given=repr(source)[:200])
        named[name] = template
    return named


def _jinja_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".jinja")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise FolderUnreadableError(f"cannot read {folder} ({error.strerror})") from error
