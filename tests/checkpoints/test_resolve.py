"""Names to folders."""

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects

from checkpoints import hub, resolve
from checkpoints.errors import (
    CheckpointError,
    FolderUnreadableError,
    HubUnreachableError,
    ModelNotFoundError,
    NotACheckpointError,
)
from checkpoints.resolve import cache_folder, resolve_model
from tests.checkpoints.gguf_models import unprivileged


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    return folder


def test_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path / "owner" / "name")
    assert resolve_model(str(model)) == model
    monkeypatch.chdir(tmp_path)
    assert resolve_model("owner/name") == Path("owner/name")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/owner/name") == model


def test_demo_is_the_demo_whatever_lies_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resolve, "fetch_demo", lambda: Path("/fetched"))
    assert resolve_model("demo") == Path("/fetched")
    assert resolve_model("./demo") == Path("demo")


@pytest.mark.parametrize(
    "name", ["nothing", "", "./owner/name", "~/no/model", "/no/such/folder", "a/b/c", "a\0b", "x y/z"]
)
def test_nothing_goes_by_this_name(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no such model: expected demo, a local folder, or a hub id such as"):
        resolve_model(name)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpointError, match=r"is no model: expected config\.json and .*, got an empty folder"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").touch()
    with pytest.raises(NotACheckpointError, match=r"got config\.json"):
        resolve_model(str(tmp_path))
    with pytest.raises(NotACheckpointError, match="is a file: expected a folder"):
        resolve_model(str(tmp_path / "config.json"))
    (tmp_path / "m.gguf").touch()
    with pytest.raises(NotACheckpointError, match=r"Import it first: headcount import .*m\.gguf FOLDER"):
        resolve_model(str(tmp_path / "m.gguf"))


def test_unreadable_folder(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    model.chmod(0)
    tmp_path.parent.chmod(0o755)
    tmp_path.chmod(0o755)
    base = tmp_path.parent.parent
    mode = base.stat().st_mode
    base.chmod(0o755)
    try:
        with unprivileged(), pytest.raises(FolderUnreadableError, match=r"m \(Permission denied\)\. Change its perm"):
            resolve_model(str(model))
        tmp_path.chmod(0)
        with unprivileged(), pytest.raises(FolderUnreadableError, match=r"m \(Permission denied\)\. Change its perm"):
            resolve_model(str(model))
    finally:
        base.chmod(mode)
        tmp_path.chmod(0o700)


def test_hub_out_of_reach(tmp_path: Path) -> None:
    code = "from checkpoints.resolve import resolve_model; resolve_model('owner/name')"
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert "HubUnreachableError: cannot fetch 'owner/name': the model hub is out of reach (" in done.stderr
    assert "Connection refused" in done.stderr
    assert "Name a local folder, or `demo`" in done.stderr


def answer(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    error = kind.__new__(kind)
    Exception.__init__(error, f"{status} from the hub")
    return error


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (answer(GatedRepoError, 403), ModelNotFoundError, "'owner/name' is gated. Accept its terms"),
        (answer(RepositoryNotFoundError, 404), ModelNotFoundError, "the hub has no model 'owner/name'. Check"),
        (answer(HfHubHTTPError, 500), HubUnreachableError, r"out of reach \(500 from the hub\)"),
        (OSError("disk full"), HubUnreachableError, r"out of reach \(disk full\)"),
    ],
)
def test_hub_refuses(
    monkeypatch: pytest.MonkeyPatch, reply: Exception, error: type[CheckpointError], message: str
) -> None:
    def download(*args: object, **kwargs: object) -> str:
        raise reply

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(error, match=message):
        resolve_model("owner/name")


def test_invalid_hub_id() -> None:
    with pytest.raises(ModelNotFoundError, match=r"the hub has no model 'a--b/c\.\.d'"):
        resolve_model("a--b/c..d")


def test_hub_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def download(model_id: str, **kwargs: object) -> str:
        asked.extend([model_id, kwargs])
        return str(make_model(tmp_path / "snapshot"))

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert resolve_model("owner/name") == tmp_path / "snapshot"
    assert asked == ["owner/name", {"allow_patterns": hub.ALLOWED_FILES, "ignore_patterns": hub.IGNORED_FILES}]


def test_hub_model_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").touch()
    monkeypatch.setattr(hub, "snapshot_download", lambda *args, **kwargs: str(tmp_path))
    with pytest.raises(NotACheckpointError, match=r"expected config\.json and safetensors files"):
        resolve_model("owner/name")


def test_only_what_is_needed_is_fetched() -> None:
    offered = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "tokenizer.json",
        "tokenizer.model",
        "chat_template.jinja",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "original/consolidated.00.pth",
        "onnx/config.json",
        "modeling_custom.py",
        "README.md",
    ]
    patterns = {"allow_patterns": hub.ALLOWED_FILES, "ignore_patterns": hub.IGNORED_FILES}
    assert list(huggingface_hub.utils.filter_repo_objects(offered, **patterns)) == offered[:5]


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("HEADCOUNT_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/somebody/.cache/headcount")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path("/home/somebody/.cache/headcount")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/headcount")
    monkeypatch.setenv("HEADCOUNT_CACHE_DIR", "~/models")
    assert cache_folder() == Path("/home/somebody/models")
    monkeypatch.setenv("HEADCOUNT_CACHE_DIR", "models")
    monkeypatch.chdir(tmp_path)
    assert cache_folder() == tmp_path / "models"


@pytest.mark.parametrize(
    ("path", "is_wanted"),
    [
        ("model-00001-of-00002.safetensors", True),
        ("tokenizer.model", True),
        ("additional_chat_templates/tool_use.jinja", True),
        ("onnx/model.safetensors", False),
        ("original/tokenizer.model", False),
        ("original/params.json", False),
        ("consolidated.00.safetensors", False),
        ("pytorch_model.bin", False),
    ],
)
def test_what_is_fetched_of_a_repository(path: str, is_wanted: bool) -> None:
    found = filter_repo_objects([path], allow_patterns=hub.ALLOWED_FILES, ignore_patterns=hub.IGNORED_FILES)
    assert list(found) == [path] * is_wanted
