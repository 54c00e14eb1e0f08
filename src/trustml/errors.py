"""Exceptions of our own; each also is the builtin that a caller would catch."""

from __future__ import annotations


class MissingExtraError(ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


class StoreMismatchError(ValueError):
    """A stored file belongs to another model, other data or other settings."""


class DoesNotFitError(MemoryError):
    """What was asked for is larger than the free memory; the message names a way that fits."""
