"""A model name to the folder that holds the model."""

import re
from pathlib import Path

from checkpoints.cache import cache_folder
from checkpoints.demo import fetch_demo
from checkpoints.errors import CheckpointError, FolderUnreadableError, ModelNotFoundError, NotACheckpointError
from checkpoints.folders import CONFIG_FILE
from checkpoints.hub import download_from_hub

__all__ = ["DEMO", "cache_folder", "resolve_model"]

DEMO = "demo"

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def resolve_model(name: str) -> Path:
    """The folder with config.json and safetensors that `name` stands for.

    Args:
        name: "demo"; or a local folder; or a model id of the Hugging Face hub ("owner/name"). In this order: a folder
            called demo is "./demo".

    Raises:
        ModelNotFoundError: nothing goes by this name.
        HubUnreachableError: it looks like a hub id, and the hub cannot be reached.
        DownloadError: the demo model cannot be fetched.
        FolderUnreadableError: the operating system refuses to read the folder.
        NotACheckpointError: it is a file, or a folder without config.json or weights.
    """
    if name == DEMO:
        return fetch_demo()
    folder = Path(name).expanduser()
    if name and _exists(folder):
        return _checked(folder)
    if HUB_ID.fullmatch(name) and not name.startswith((".", "~")):
        return _checked(download_from_hub(name))
    expected = "demo, a local folder, or a hub id such as owner/name"
    raise ModelNotFoundError("no such model", expected=expected, given=repr(name[:200]))


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise _unreadable(path, error) from error
    return True


def _checked(folder: Path) -> Path:
    """`folder`, where it looks like a checkpoint."""
    try:
        names = {path.name for path in folder.iterdir()}
    except NotADirectoryError as error:
        raise _not_a_folder(folder) from error
    except OSError as error:
        raise _unreadable(folder, error) from error
    if CONFIG_FILE not in names or not any(name.endswith(".safetensors") for name in names):
        given = ", ".join(sorted(names)[:8]) or "an empty folder"
        raise NotACheckpointError(f"{folder} is no model", expected="config.json and safetensors files", given=given)
    return folder


def _not_a_folder(path: Path) -> CheckpointError:
    if path.suffix == ".gguf":
        remedy = f"Import it first: headcount import {path} FOLDER"
        return NotACheckpointError(f"{path} is a GGUF file", expected="a folder of safetensors", remedy=remedy)
    return NotACheckpointError(f"{path} is a file", expected="a folder with config.json and safetensors files")


def _unreadable(path: Path, error: OSError) -> FolderUnreadableError:
    remedy = "Change its permissions, or run as a user who may read it"
    return FolderUnreadableError(f"cannot read {path} ({error.strerror})", remedy=remedy)
