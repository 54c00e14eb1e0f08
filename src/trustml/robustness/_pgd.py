"""Projected gradient ascent with restarts and a shrinking step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustml.core.validation import check_choice, check_positive_int
from trustml.robustness._aim import LOSSES
from trustml.robustness._method import Attack
from trustml.robustness._problem import Problem


@dataclass(frozen=True)
class Pgd(Attack):
    """Gradient steps projected back into ball and box, from one or more starts.

    The step starts at ``step * eps`` and is halved at checkpoints that come ever closer; there
    every row goes back to the point of highest loss it has seen. A row that is fooled leaves
    the run at once, so its result does not depend on the others and costs nothing more.

    Parameters
    ----------
    steps : int
        Gradients of each start.
    restarts : int
        Starts; rows fooled by an earlier one take no part in the next.
    loss : {"ce", "margin"}
        What is climbed.
    step : float
        Length of the first steps, as a share of eps.
    random_start : bool
        Start at a random point of the ball, drawn from a hash of the row. Without it the first
        start is the clean row, and the later ones are random.

    References
    ----------
    Madry et al. (2018), Towards deep learning models resistant to adversarial attacks,
    arXiv:1706.06083. The checkpoints are those of Croce and Hein (2020), arXiv:2003.01690.

    Examples
    --------
    >>> Pgd(steps=100, restarts=5, loss="margin").steps
    100
    """

    steps: int = 40
    restarts: int = 1
    loss: str = "ce"
    step: float = 1.0
    random_start: bool = True
    name: ClassVar[str] = "pgd"

    def __post_init__(self) -> None:
        check_positive_int(self.steps, "steps")
        check_positive_int(self.restarts, "restarts")
        check_choice(self.loss, "loss", LOSSES)
        if not 0 < self.step <= 2:
            raise ValueError(f"step must be in (0, 2], a share of eps, got {self.step}")

    def run(self, problem: Problem, seed: int) -> Tensor:
        """Return the first point found for each row, the clean row where there is none."""
        found = problem.threat.clean.clone()
        left = torch.arange(len(problem), device=found.device)
        for start in range(self.restarts):
            if not len(left):
                break
            part = problem.select(left).towards(self.loss)
            at_random = self.random_start or start > 0
            points = part.threat.random_points(seed + start) if at_random else part.threat.clean
            hit, best = climb(part, points, self.steps, self.step)
            found[left[hit]] = best[hit]
            left = left[~hit]
        return found


def climb(problem: Problem, points: Tensor, steps: int, step: float) -> tuple[Tensor, Tensor]:
    """Return which rows reach the aim (n,), and the best point of each (n, *features)."""
    hit = torch.zeros(len(problem), dtype=torch.bool, device=points.device)
    best, uphill = points.clone(), torch.zeros_like(points)  # each best point and its gradient
    highest = torch.full((len(problem),), -torch.inf, dtype=torch.float64, device=points.device)
    size = step * problem.threat.eps
    halvings = checkpoints(steps)
    left, part = torch.arange(len(problem), device=points.device), problem
    for k in range(steps + 1):
        last = k == steps
        if last:
            logits = part.logits(points)
            loss, gradient = part.aim.values(logits), torch.zeros_like(points)
        else:
            logits, loss, gradient = part.ascend(points)
        reached = part.aim.reached(logits)
        better = reached | (loss > highest[left])
        best[left[better]] = points[better]
        uphill[left[better]] = gradient[better]
        highest[left[better]] = loss[better]
        hit[left[reached]] = True
        stay = (~reached).nonzero().squeeze(1)
        if last or not len(stay):
            break
        if len(stay) < len(left):
            left, part = left[stay], part.select(stay)
            points, gradient = points[stay], gradient[stay]
        if k + 1 in halvings:
            size, points, gradient = size / 2, best[left], uphill[left]
        delta = points.double() - part.threat.clean.double()
        points = part.threat.place(delta + size * part.threat.ascent(points, gradient))
    return hit, best


def checkpoints(steps: int) -> set[int]:
    """Return the iterations at which the step is halved: 22 %, 41 %, 57 %, 70 %, ... of all."""
    shares, gap = [0.0, 0.22], 0.22
    while shares[-1] < 1:
        gap = max(gap - 0.03, 0.06)
        shares.append(shares[-1] + gap)
    return {round(share * steps) for share in shares[1:] if 0 < round(share * steps) < steps}
