"""Rows in the form that packages built on scikit-learn read."""

from __future__ import annotations

from typing import Any

from trustml.core.validation import to_numpy


def to_rows(X: Any) -> Any:
    """Return rows as scikit-learn takes them: a frame stays one, tensors and lists do not."""
    return X if hasattr(X, "iloc") else to_numpy(X)
