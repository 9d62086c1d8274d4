"""A cache folder for tests alone."""

from pathlib import Path

from checkpoints.cache import cache_folder


def own_cache(folder: Path, *shared: str) -> Path:
    """`folder`, made where it is missing, as a cache that has only the parts named in `shared` from the user's own."""
    folder.mkdir(exist_ok=True)
    for name in shared:
        theirs = cache_folder() / name
        theirs.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(theirs, target_is_directory=True)
    return folder
