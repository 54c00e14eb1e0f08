"""A progress bar that shows itself only to someone who waits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_PATIENCE = 1.0  # seconds before a bar appears


def track(iterable: Iterable[T], description: str | None, total: int | None = None) -> Iterator[T]:
    """Yield from ``iterable`` with a bar on an interactive terminal once it takes over a second.

    Parameters
    ----------
    iterable : iterable
        What to go through; it may be left at any time.
    description : str or None
        The text beside the bar; None shows none.
    total : int or None
        How many items there are; None asks ``len``.

    Yields
    ------
    object
        The items, unchanged.

    Examples
    --------
    >>> list(track(range(3), "counting"))
    [0, 1, 2]
    """
    if description is None:
        yield from iterable
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield from iterable
        return
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    yield from _bar(iterable, description, total, console)


def _bar(
    iterable: Iterable[T], description: str, total: int | None, console: object
) -> Iterator[T]:
    from rich.progress import Progress

    bar = Progress(console=console, transient=True)  # type: ignore[arg-type]
    task = bar.add_task(description, total=total)
    started, shown = time.monotonic(), False
    try:
        for item in iterable:
            yield item
            bar.advance(task)
            if not shown and time.monotonic() - started > _PATIENCE:
                bar.start()
                shown = True
    finally:
        if shown:
            bar.stop()
