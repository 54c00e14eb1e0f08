"""Exceptions of our own; each also is the builtin that a caller would catch."""

from __future__ import annotations


class MissingExtraError(ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


class StoreMismatchError(ValueError):
    """A stored file belongs to another model, other data or other settings."""


class DoesNotFitError(MemoryError):
    """What was asked for is larger than the free memory; the message names a way that fits."""


class FairnessError(AssertionError):
    """Groups differ by more than was allowed; ``verdict`` says which and by how much."""

    def __init__(self, message: str, verdict: object = None) -> None:
        super().__init__(message)
        self.verdict = verdict


class NotEnoughDataError(AssertionError):
    """The rows decide neither for nor against; ``verdict`` says how many would."""

    def __init__(self, message: str, verdict: object = None) -> None:
        super().__init__(message)
        self.verdict = verdict
