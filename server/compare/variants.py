"""The variants' checkpoints: made once, by a process of their own, and kept in the cache folder."""

import asyncio
import contextlib
import hashlib
import re
import sys
from pathlib import Path

from checkpoints.cache import cache_folder
from checkpoints.folders import CONFIG_FILE
from server.compare.errors import ComparisonFailedError
from server.compare.plan import SOURCE, PlannedVariant

FOLDER = "variants"
KEY_CHARS = 12


def source_revision(folder: Path) -> str:
    """What tells one state of a checkpoint from another: its config, and name, size and time of each of its files."""
    digest = hashlib.sha256((folder / CONFIG_FILE).read_bytes())
    for path in sorted(folder.iterdir()):
        found = path.stat()
        digest.update(f"{path.name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def variant_folder(source: Path, variant: PlannedVariant) -> Path:
    """Where the checkpoint of a variant is, or will be: another one for each source, number of heads and method."""
    if variant.method == SOURCE:
        return source
    key = f"{source_revision(source)} {variant.num_kv_heads} {variant.method}"
    name = re.sub(r"[^\w.-]", "_", source.name)[:64]
    digest = hashlib.sha256(key.encode()).hexdigest()[:KEY_CHARS]
    return cache_folder() / FOLDER / f"{name}-kv{variant.num_kv_heads}-{variant.method}-{digest}"


async def build_variant(source: Path, variant: PlannedVariant) -> Path:
    """The folder of a variant, which is made unless that has been done.

    Tensors are changed by PyTorch, which this process must not load. The child makes the folder whole or not at all;
    where another process makes the same one meanwhile, its work is taken.

    Raises:
        ComparisonFailedError: it cannot be made.
    """
    folder = variant_folder(source, variant)
    if not _is_complete(folder):
        status, output = await _run(_command(source, folder, variant))
        if not _is_complete(folder):
            last_line = output.strip().rpartition("\n")[2].removeprefix("headcount: ")
            reason = last_line or f"the process ended with {status}"
            raise ComparisonFailedError(f"{variant.title}: the variant cannot be made: {reason}")
    return folder


def _is_complete(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def _command(source: Path, folder: Path, variant: PlannedVariant) -> list[str]:
    command = [sys.executable, "-m", "headcount", "heads", "convert", str(source), str(folder)]
    command += ["--kv-heads", str(variant.num_kv_heads)]
    return command if variant.method == "repeat" else [*command, "--method", variant.method]


async def _run(command: list[str]) -> tuple[int, str]:
    """Exit status and output; the child ends with the task that waits for it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return process.returncode or 0, output.decode(errors="replace")
