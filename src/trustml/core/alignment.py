"""Rows of several tables that must be in one order."""

from __future__ import annotations

from itertools import combinations
from typing import Any


def check_aligned(**arrays: Any) -> None:
    """Refuse pandas inputs that have the same index in different orders.

    Rows are matched by position, never by index: of such inputs every row would be compared with
    another's. Inputs without an index, with other or with repeated index values pass.

    Parameters
    ----------
    **arrays : array-like or dict of columns
        What is to be matched row by row; None is skipped.

    Raises
    ------
    ValueError
        If two have the same unique index values, ordered differently.
    """
    indexed: dict[int, tuple[str, Any]] = {}
    for name, x in arrays.items():
        for key, part in x.items() if type(x) is dict else [(None, x)]:
            if hasattr(part, "iloc"):
                title = name if key is None else f"{name}[{key!r}]"
                indexed.setdefault(id(part.index), (title, part.index))
    for (first, one), (second, other) in combinations(indexed.values(), 2):
        if len(one) != len(other) or one.equals(other):
            continue
        if one.is_unique and other.is_unique and set(one) == set(other):
            raise ValueError(
                f"{first} and {second} have the same index in different orders, but rows are "
                f"matched by position: pass {second}.loc[{first}.index] if the index says which "
                "rows belong together, or .to_numpy() of both if their order does"
            )
