"""The one judge of all attacks: what counts is the returned point, seen afresh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trustml.core.results import Result
from trustml.model import Model
from trustml.robustness._aim import Aim
from trustml.robustness._problem import Bill
from trustml.robustness._threat import Threat


@dataclass(frozen=True, eq=False, repr=False)
class AttackResult(Result):
    """Adversarial points and what is true of them.

    Attributes
    ----------
    x_adv : array or Tensor of shape (n, *features)
        Adversarial points, in input units; the clean row where ``success`` is False, and where
        the clean row already is what the attacker wants.
    success : bool array or Tensor of shape (n,)
        Whether the model's prediction at ``x_adv`` is wrong (or the target), re-checked.
    distance : float array or Tensor of shape (n,)
        ||x_adv - x|| in the norm of the attack, input units, float64; 0 for clean rows.
    forwards, backwards : int array or Tensor of shape (n,)
        Model passes spent on each row, the first look and the judge's look included.
    flags : tuple of str
        What makes the result doubtful; empty when nothing does.
    method, norm : str
    eps : float
        Radius, input units.
    targeted : bool
    random_state : int
        The seed that was used; it repeats the run.
    """

    x_adv: Any
    success: Any
    distance: Any
    forwards: Any
    backwards: Any
    flags: tuple[str, ...]
    method: str
    norm: str
    eps: float
    targeted: bool
    random_state: int

    def _title(self) -> str:
        """Return how many rows were fooled, by what."""
        hits = "reached their target" if self.targeted else "are misclassified"
        doubts = "".join(f"; {flag}" for flag in self.flags)
        return (
            f"AttackResult: {int(self.success.sum())} of {len(self.success)} rows {hits} "
            f"({self.method}, {self.norm}, eps {self.eps:.4g}){doubts}"
        )

    def _columns(self) -> dict[str, Any]:
        return {
            "success": self.success,
            "distance": self.distance,
            "forwards": self.forwards,
            "backwards": self.backwards,
        }


@dataclass(frozen=True, eq=False)
class Verdict:
    """The judge's findings, all of shape (n,) but the points."""

    points: Tensor
    success: Tensor
    distance: Tensor
    flags: tuple[str, ...]


def judge(model: Model, threat: Threat, aim: Aim, points: Tensor, bill: Bill) -> Verdict:
    """Check proposed points with a fresh forward pass; replace failures by the clean rows.

    A point counts if it is finite, inside ball and box as the numbers stand, and the model's own
    prediction there is what the attacker wants.

    Returns
    -------
    Verdict
    """
    clean = threat.clean
    distance = threat.distance(points)
    wide = points.double()
    inside = torch.isfinite(wide) & (wide >= threat.low) & (wide <= threat.high)
    legal = inside.flatten(1).all(1) & (distance <= threat.eps)
    logits = model.logits_of(model.observe(points).outputs).to(clean.device)
    bill.forwards.add_(1)
    success = aim.reached(logits) & legal
    rejected = (points != clean).flatten(1).any(1) & ~success
    shape = (-1, *[1] * (clean.ndim - 1))
    points = torch.where(success.reshape(shape), points, clean)
    distance = torch.where(success, distance, 0.0)
    return Verdict(points, success, distance, _flags(bill, success, rejected))


def _flags(bill: Bill, success: Tensor, rejected: Tensor) -> tuple[str, ...]:
    """Say what makes the outcome doubtful."""
    n = len(success)
    blind = int((~bill.moved & ~success & (bill.backwards > 0)).sum())
    broken = int(bill.broken.sum())
    flags = []
    if blind:
        flags.append(
            f"zero gradients: {blind} of {n} rows survived attacks that saw only zero or "
            "non-finite gradients; their robustness is not shown"
        )
    if broken:
        flags.append(f"non-finite values: logits or gradients of {broken} of {n} rows")
    if int(rejected.sum()):
        flags.append(
            f"not reproduced: {int(rejected.sum())} of {n} adversarial points were not confirmed "
            "by a fresh forward pass; the model may be random or depend on the batch"
        )
    return tuple(flags)
