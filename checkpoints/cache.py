"""Where downloaded and imported models are kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder that holds all that headcount downloads.

    `HEADCOUNT_CACHE_DIR` where it is set, else `headcount` below the XDG cache folder (`XDG_CACHE_HOME`, else `~/.cache`).
    It is not created here.
    """
    if chosen := os.environ.get("HEADCOUNT_CACHE_DIR"):
        return Path(chosen).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path in the variable counts as unset.
    return (Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache") / "headcount"
