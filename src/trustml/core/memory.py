"""How much memory there is, and a clear word before an allocation that cannot fit."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from trustml.core import distributed
from trustml.errors import DoesNotFitError

_UNKNOWN = 8.0 * 2**30
_SMALL = 2**26  # bytes; less is not worth asking the system
_CGROUPS = Path("/sys/fs/cgroup")
# (limit, usage, page cache that the kernel gives back) of control groups, version 2 and 1.
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def total() -> float:
    """Return the bytes of memory that this process could ever have: the same on every run.

    Returns
    -------
    float
        The machine's memory, or its container's limit where that is lower; 8 GiB if unknown.

    Examples
    --------
    >>> total() > 0
    True
    """
    found = min([_physical(), *(limit for limit, _ in _cgroups())])
    return found if math.isfinite(found) else _UNKNOWN


def available(device: torch.device | str = "cpu") -> float:
    """Return the bytes that can be allocated now.

    Parameters
    ----------
    device : torch.device or str
        The CPU's memory is that of the machine, its container and the process's own limit; a GPU's
        counts what torch keeps in reserve as free.

    Returns
    -------
    float
        inf where the system does not say.

    Examples
    --------
    >>> available() > 0
    True
    """
    device = torch.device(device)
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + reserve)
    if device.type != "cpu":
        return math.inf
    return min([_machine_free(), _address_space(), *(free for _, free in _cgroups())])


def check_fits(
    size: float, what: str, alternative: str, device: torch.device | str = "cpu"
) -> None:
    """Raise before an allocation that cannot fit.

    Parameters
    ----------
    size : float
        Bytes.
    what : str
        What takes them, with its dimensions: the subject of the message.
    alternative : str
        What the user can do instead, as an imperative.
    device : torch.device or str
        Where.

    Raises
    ------
    DoesNotFitError
        A ``MemoryError`` that names the estimate, what is free, and the alternative.

    Examples
    --------
    >>> check_fits(1e3, "a test", "do without")
    """
    if size < _SMALL:
        return
    free = distributed.smallest(available(device))
    if size > free:
        raise DoesNotFitError(
            f"{what} take {gigabytes(size)}, {gigabytes(free)} are free: {alternative}"
        )


def gigabytes(size: float) -> str:
    """Return a number of bytes in words.

    Parameters
    ----------
    size : float
        Bytes.

    Returns
    -------
    str

    Examples
    --------
    >>> gigabytes(18_811_680_000)
    '18.8 GB'
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _physical() -> float:
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # not every system tells
        return math.inf


def _machine_free() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _physical()  # not Linux: the best that is known
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return float(kilobytes[0]) * 1024 if kilobytes else math.inf


def _address_space() -> float:
    """Return what ``ulimit -v`` leaves."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return math.inf
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return float(limit - pages * os.sysconf("SC_PAGE_SIZE"))
    except (ImportError, OSError, ValueError):
        return math.inf


def _cgroups() -> Iterator[tuple[float, float]]:
    """Yield (limit, free) of the control groups that the process is in."""
    for folder in _folders():
        for limit_file, usage_file, reclaimable in _FILES:
            try:
                limit = float((folder / limit_file).read_text().replace("max", "inf"))
                usage = float((folder / usage_file).read_text())
                stat = (folder / "memory.stat").read_text().splitlines()
            except (OSError, ValueError):
                continue
            cache = sum(float(line.split()[1]) for line in stat if line.split()[0] == reclaimable)
            yield limit, limit - usage + cache


def _folders() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = _CGROUPS / controllers
            own = root / path.lstrip("/")
            found += [own, *own.parents[: len(own.parts) - len(root.parts)]]
    return found
