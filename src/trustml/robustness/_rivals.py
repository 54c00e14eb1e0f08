"""The linearised distance of every rival class: margin over the dual norm of its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trustml.robustness._problem import Problem
from trustml.robustness._threat import dual_lengths


@dataclass(frozen=True, eq=False)
class Rivals:
    """The strongest wrong classes of each row, best first by logit.

    Attributes
    ----------
    classes : Tensor of shape (n, k)
        Class indices.
    margin : Tensor of shape (n, k)
        z_label - z_class; negative where the label is beaten. Float64.
    slope : Tensor of shape (n, k)
        Dual norm of the margin's input gradient. Float64.
    """

    classes: Tensor
    margin: Tensor
    slope: Tensor

    @property
    def distance(self) -> Tensor:
        """Radius at which each linearised margin is zero, (n, k); infinite on a flat margin."""
        flat = self.slope == 0
        radius = self.margin.clamp_min(0) / self.slope.masked_fill(flat, 1.0)
        return torch.where(flat & (self.margin > 0), torch.inf, radius)

    @property
    def nearest(self) -> Tensor:
        """Column of the nearest class, (n,)."""
        return self.distance.argmin(1)


def find_rivals(problem: Problem, norm: str, most: int) -> Rivals:
    """Linearise the margins to the ``most`` strongest wrong classes at the clean rows."""
    with torch.enable_grad():
        leaf = problem.threat.clean.detach().requires_grad_()
        logits = problem.charged(problem.forward(leaf))
        label = problem.aim.labels[:, None]
        others = logits.detach().scatter(1, label, -torch.inf)
        classes = others.topk(min(most, logits.shape[1] - 1), dim=1).indices
        margins, slopes = [], []
        for k in range(classes.shape[1]):
            rival = classes[:, k : k + 1]
            margin = (logits.gather(1, label) - logits.gather(1, rival)).squeeze(1)
            gradient = problem.gradient(margin, leaf, keep=k + 1 < classes.shape[1])
            margins.append(margin.detach().double())
            slopes.append(dual_lengths(gradient.double(), norm))
    return Rivals(classes, torch.stack(margins, 1), torch.stack(slopes, 1))
