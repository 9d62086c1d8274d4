"""Folders that appear complete or not at all, made by one process at a time."""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoints.errors import DestinationError, FolderUnreadableError
from configs.sizes import format_bytes

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"

logger = logging.getLogger(__name__)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the only right to make `folder`; waits while another process holds it.

    The right ends with the process, so that a killed one blocks nobody. What it left unfinished is removed here.

    Raises:
        FolderUnreadableError: the folder above cannot be made or written to.
    """
    with _denials(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(folder.with_name(f".{folder.name}.lock"))
    try:
        for leftover in folder.parent.iterdir():
            if leftover.name.startswith(_part_prefix(folder)):
                shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        folder.with_name(f".{folder.name}.lock").unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A temporary sibling of `folder` that takes its name, and its place, when the block ends without an exception.

    Whatever happens in between, `folder` is the old one (or absent) or the new one in full: the data reaches the disk
    before the name does. Call it inside `exclusive`.
    """
    part = scratch_folder(folder)
    try:
        yield part
        _sync_files(part)
        _take_place(part, folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def scratch_folder(folder: Path) -> Path:
    """A new empty sibling of `folder` that the next `exclusive` removes if this process does not live to do it."""
    return Path(tempfile.mkdtemp(prefix=_part_prefix(folder), dir=folder.parent))


def check_replaceable(folder: Path, *, force: bool) -> None:
    """Refuse to overwrite what the user did not mean to lose.

    Raises:
        DestinationError: `folder` exists, and `force` is off or it holds something else than a checkpoint.
    """
    if not (folder.exists() or folder.is_symlink()) or (folder.is_dir() and not any(folder.iterdir())):
        return
    is_checkpoint = folder.is_dir() and not folder.is_symlink() and (folder / CONFIG_FILE).is_file()
    if force and not is_checkpoint:
        raise DestinationError(
            f"{folder} is not replaced, even by force",
            expected="a checkpoint folder (one that holds config.json)",
            given="something else",
            remedy="Choose another destination, or remove it yourself",
        )
    if not force:
        remedy = "Choose another destination, or force its replacement"
        raise DestinationError(f"{folder} exists already", remedy=remedy)


def check_room(folder: Path, num_bytes: int) -> None:
    """Refuse to begin what the disk of `folder`, which need not exist yet, cannot hold.

    Raises:
        DestinationError: fewer than `num_bytes` are free there.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    num_free = shutil.disk_usage(there).free
    if num_free < num_bytes:
        raise DestinationError(
            f"{folder} does not fit on its disk",
            expected=f"{format_bytes(num_bytes)} free",
            given=format_bytes(num_free),
            remedy="Free some room, or choose a destination on another disk",
        )


def _part_prefix(folder: Path) -> str:
    return f".{folder.name}.part-"


def _lock(path: Path) -> int:
    """A descriptor that holds the lock on the file that goes by the name `path` now."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another process is making this model: waiting for it (%s)", path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Its last holder removed the file before letting go: then the lock we hold is on a file without a name,
        # and others may hold one on its successor.
        if _is_named(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether `path` is the name of the open file now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _take_place(part: Path, folder: Path) -> None:
    # mkdtemp makes folders that only their owner may enter; a checkpoint is as readable as any other file.
    part.chmod(0o777 & ~_umask())
    if folder.exists():
        retired = scratch_folder(folder)
        folder.replace(retired)
        part.replace(folder)
        shutil.rmtree(retired)
    else:
        part.replace(folder)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_files(folder: Path) -> None:
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _denials(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "Choose another folder, or change its permissions (HEADCOUNT_CACHE_DIR moves the cache)"
        raise FolderUnreadableError(f"cannot write in {folder} ({error.strerror})", remedy=remedy) from error
