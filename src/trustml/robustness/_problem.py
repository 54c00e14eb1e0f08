"""A batch under attack: the only way an attack reaches the model, and its bill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from trustml.robustness._aim import Aim
from trustml.robustness._threat import Threat


@dataclass(frozen=True, eq=False)
class Bill:
    """Model passes spent on each row, and what its gradients looked like.

    Attributes
    ----------
    forwards, backwards : Tensor of shape (n,)
        Passes in which the row took part.
    moved : Tensor of shape (n,)
        Whether any gradient of the row had a usable, non-zero entry.
    broken : Tensor of shape (n,)
        Whether any gradient or logit of the row was NaN or infinite.
    """

    forwards: Tensor
    backwards: Tensor
    moved: Tensor
    broken: Tensor

    @classmethod
    def blank(cls, n: int, device: torch.device) -> Self:
        """Return a bill of zeros for ``n`` rows."""
        counts = torch.zeros(2, n, dtype=torch.long, device=device)
        marks = torch.zeros(2, n, dtype=torch.bool, device=device)
        return cls(counts[0], counts[1], marks[0], marks[1])


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows to attack, what may be done to them, what is wanted, and the model to query.

    Attributes
    ----------
    forward : callable
        Points (n, *features) -> logits (n, c), differentiable.
    threat, aim : Threat, Aim
        For these rows.
    bill : Bill
        Of the whole batch; shared by all selections.
    rows : Tensor of shape (n,)
        Where these rows are in the bill.
    """

    forward: Callable[[Tensor], Tensor]
    threat: Threat
    aim: Aim
    bill: Bill
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Tensor) -> Self:
        """Return the problem for some of the rows (indices), on the same bill."""
        return replace(
            self,
            threat=self.threat.select(rows),
            aim=self.aim.select(rows),
            rows=self.rows[rows],
        )

    def towards(self, loss: str, rivals: Tensor | None = None) -> Self:
        """Return the same problem with another loss."""
        return replace(self, aim=replace(self.aim, loss=loss, rivals=rivals))

    def logits(self, points: Tensor) -> Tensor:
        """Return the logits at ``points``, (n, c), without a graph."""
        with torch.no_grad():
            return self.charged(self.forward(points))

    def ascend(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (n, c), loss (n,) and its gradient (n, *features) at ``points``."""
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            logits = self.charged(self.forward(leaf))
            loss = self.aim.values(logits)
            gradient = self.gradient(loss, leaf)
        return logits.detach(), loss.detach(), gradient

    def gradient(self, values: Tensor, leaf: Tensor, *, keep: bool = False) -> Tensor:
        """Return d values_i / d row i; zero if the graph does not reach the input."""
        if values.requires_grad:
            (found,) = torch.autograd.grad(values.sum(), leaf, retain_graph=keep, allow_unused=True)
        else:
            found = None
        gradient = torch.zeros_like(leaf) if found is None else found.detach()
        flat = gradient.flatten(1)
        finite = torch.isfinite(flat)
        self.bill.backwards[self.rows] += 1
        self.bill.moved[self.rows] |= ((flat != 0) & finite).any(1)
        self.bill.broken[self.rows] |= ~finite.all(1)
        return gradient

    def charged(self, logits: Tensor) -> Tensor:
        """Return ``logits`` after putting their forward pass on the bill."""
        self.bill.forwards[self.rows] += 1
        self.bill.broken[self.rows] |= ~torch.isfinite(logits.detach()).all(1)
        return logits
