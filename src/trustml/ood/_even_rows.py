"""Some of the rows that come by, evenly spaced, whatever their number."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.core.batches import Batch, Inputs, apply
from trustml.core.validation import check_positive_int


class EvenRows:
    """Every s-th of the rows that were added, s the least power of two that keeps few enough.

    The choice depends on the rows' positions alone, not on how they were cut into batches.

    Parameters
    ----------
    most : int
        At most so many rows are held.

    Attributes
    ----------
    n : int
        Rows added so far.
    """

    def __init__(self, most: int) -> None:
        self.most = check_positive_int(most, "max_rows")
        self.n, self._stride, self._count = 0, 1, 0
        self._held: list[Tensor] = []  # one buffer for each tensor of the inputs, and the targets
        self._like: Inputs

    def __len__(self) -> int:
        """Return how many rows are held."""
        return self._count

    def add(self, inputs: Inputs, targets: Tensor) -> None:
        """Offer the next rows with their targets."""
        parts = [*_tensors(inputs), targets]
        if not self._held:
            self._like = apply(lambda part: part[:0].clone(), inputs)
            self._held = [part.new_empty(0, *part.shape[1:]) for part in parts]
        start, self.n = self.n, self.n + len(targets)
        while -(-self.n // self._stride) > self.most:
            self._stride *= 2
            self._held = [part[: self._count : 2].clone() for part in self._held]
            self._count = -(-self._count // 2)
        chosen = slice(-start % self._stride, None, self._stride)
        new = len(targets[chosen])
        while len(self._held[-1]) < self._count + new:
            self._grow()
        for buffer, part in zip(self._held, parts, strict=True):
            buffer[self._count : self._count + new] = part[chosen].detach()
        self._count += new

    def batch(self) -> Batch:
        """Return the rows that are held, in order."""
        parts = [part[: self._count] for part in self._held]
        columns = iter(parts)
        return Batch(apply(lambda _: next(columns), self._like), parts[-1], torch.arange(len(self)))

    def _grow(self) -> None:
        """Double the room: large blocks are given back to the system whole, small ones are not."""
        room = min(self.most, max(64, 2 * len(self._held[-1])))
        for j, part in enumerate(self._held):
            larger = part.new_empty(room, *part.shape[1:])
            larger[: self._count] = part[: self._count]
            self._held[j] = larger


def _tensors(inputs: Inputs) -> list[Tensor]:
    found: list[Tensor] = []
    apply(lambda part: found.append(part) or part, inputs)  # type: ignore[func-returns-value]
    return found
