"""Files that are complete or not there at all, whenever the process is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def check_disk(folder: Path, size: int) -> None:
    """Raise if a folder's disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            f"{folder} has {free / 1e9:.1f} GB free, the store needs {size / 1e9:.1f} GB more; "
            "give a folder on a larger disk"
        )


def unreadable(path: Path, reason: Exception) -> str:
    """Return what to say of a file that is damaged."""
    return f"{path} cannot be read ({reason}); delete it: what it held is made again"


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place, and move it there once it is safely on the disk."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    with partial.open("rb+") as file:
        flush(file)
    partial.replace(path)
    if os.name == "posix":  # the move itself is on the disk only with its folder
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def flush(file: IO[Any]) -> None:
    """Wait until what was written is on the disk."""
    file.flush()
    os.fsync(file.fileno())
