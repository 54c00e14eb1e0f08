"""Adaptive prediction sets."""

from __future__ import annotations

from torch import Tensor

from trustml.conformal._ranking import ranking
from trustml.conformal._score import Score


class Aps(Score):
    """Adaptive sets: the mass of the more probable classes plus a random share of one's own.

    Sets grow with the difficulty of the row. Equal probabilities share one score.

    Parameters
    ----------
    randomized : bool
        False counts all of one's own mass: no random number, larger sets.

    References
    ----------
    Romano, Sesia and Candès (2020), Classification with valid and adaptive coverage,
    arXiv:2006.02544.

    Examples
    --------
    >>> import torch
    >>> Aps(randomized=False)(torch.tensor([[0.25, 0.5, 0.25]]), torch.rand(1))
    tensor([[1.0000, 0.5000, 1.0000]])
    """

    name = "aps"

    def __init__(self, randomized: bool = True) -> None:
        self.randomized = randomized

    def __call__(self, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return the randomised cumulative mass, shape (n, c)."""
        order = ranking(probabilities)
        return order.above + (uniforms[:, None] * order.tied if self.randomized else order.tied)
