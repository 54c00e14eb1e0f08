"""The fast gradient (sign) method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustml.core.validation import check_choice
from trustml.robustness._aim import LOSSES
from trustml.robustness._method import Attack
from trustml.robustness._problem import Problem


@dataclass(frozen=True)
class Fgsm(Attack):
    """One step of length eps along the steepest direction of the loss.

    Exact for linear models without an active box; for others the cheapest attack there is:
    one gradient a row.

    Parameters
    ----------
    loss : {"ce", "margin"}
        What is climbed: cross-entropy (in a form that does not underflow) or the margin.

    References
    ----------
    Goodfellow, Shlens and Szegedy (2015), Explaining and harnessing adversarial examples,
    arXiv:1412.6572.

    Examples
    --------
    >>> Fgsm(loss="margin").name
    'fgsm'
    """

    loss: str = "ce"
    name: ClassVar[str] = "fgsm"

    def __post_init__(self) -> None:
        check_choice(self.loss, "loss", LOSSES)

    def run(self, problem: Problem, seed: int) -> Tensor:
        """Return the stepped rows where they reach the aim, the clean rows elsewhere."""
        problem = problem.towards(self.loss)
        clean = problem.threat.clean
        _, _, gradient = problem.ascend(clean)
        points = problem.threat.place(problem.threat.eps * problem.threat.ascent(clean, gradient))
        hit = problem.aim.reached(problem.logits(points))
        return torch.where(hit.reshape(-1, *[1] * (clean.ndim - 1)), points, clean)
