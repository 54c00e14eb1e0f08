"""The default of every verdict: the worst case of the attacks that are here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustml.core.validation import check_positive_int
from trustml.robustness._fgsm import Fgsm
from trustml.robustness._method import Attack
from trustml.robustness._pgd import Pgd, climb
from trustml.robustness._problem import Problem
from trustml.robustness._rivals import find_rivals

_STAGE = 1_000_003  # keeps the seeds of stages and restarts apart


@dataclass(frozen=True)
class Strong(Attack):
    """FGSM, PGD on cross-entropy, PGD on the margin, PGD towards each of the nearest classes.

    A row fooled by one stage takes no part in the next, so the result is the per-row worst case
    of all stages. The last stage ranks the wrong classes by the distance at which their
    linearised margin vanishes, and climbs towards the nearest ones in turn; a targeted attack
    has no such stage.

    Parameters
    ----------
    steps : int
        Gradients of each PGD run.
    restarts : int
        Starts of the cross-entropy and margin stages, each; the margin's first is the clean row.
    rivals : int
        Wrong classes that are tried in the last stage.

    References
    ----------
    Croce and Hein (2020), Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks, arXiv:2003.01690, for the idea of a fixed ensemble.

    Examples
    --------
    >>> Strong(steps=20, rivals=2).name
    'strong'
    """

    steps: int = 40
    restarts: int = 1
    rivals: int = 3
    name: ClassVar[str] = "strong"

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "rivals"):
            check_positive_int(getattr(self, name), name)

    def run(self, problem: Problem, seed: int) -> Tensor:
        """Return the first point found for each row, the clean row where there is none."""
        stages: tuple[Attack, ...] = (
            Fgsm(),
            Pgd(self.steps, self.restarts, "ce"),
            Pgd(self.steps, self.restarts, "margin", random_start=False),
            _TowardsRivals(self.steps, self.rivals),
        )
        found = problem.threat.clean.clone()
        left = torch.arange(len(problem), device=found.device)
        for k, stage in enumerate(stages):
            if not len(left):
                break
            points = stage.run(problem.select(left), seed + k * _STAGE)
            hit = (points != found[left]).flatten(1).any(1)
            found[left[hit]] = points[hit]
            left = left[~hit]
        return found


@dataclass(frozen=True)
class _TowardsRivals(Attack):
    """Climb towards the nearest wrong classes, one after the other."""

    steps: int
    rivals: int
    name: ClassVar[str] = "towards rivals"

    def run(self, problem: Problem, seed: int) -> Tensor:
        found = problem.threat.clean.clone()
        if problem.aim.targeted:
            return found
        rivals = find_rivals(problem, problem.threat.norm, most=max(10, self.rivals))
        order = rivals.classes.gather(1, rivals.distance.argsort(1))[:, : self.rivals]
        left = torch.arange(len(problem), device=found.device)
        for k in range(order.shape[1]):
            part = problem.select(left).towards("margin", order[left, k])
            hit, best = climb(part, part.threat.clean, self.steps, step=1.0)
            found[left[hit]] = best[hit]
            left = left[~hit]
            if not len(left):
                break
        return found
