"""What the room lists, by name: its table of contents is the registry."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TypeVar

T = TypeVar("T")


def listed(kind: type[T]) -> dict[str, type[T]]:
    """Return the subclasses of ``kind`` in ``trustml.conformal.__all__``, by their ``name``."""
    room = import_module("trustml.conformal")
    items = (getattr(room, name) for name in room.__all__)
    return {
        str(item.name): item  # type: ignore[attr-defined]
        for item in items
        if inspect.isclass(item) and issubclass(item, kind) and item is not kind
    }
