"""Adaptive prediction sets."""

from __future__ import annotations

from torch import Tensor

from trustml.conformal._ranking import RankedScore, Ranking


class Aps(RankedScore):
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

    def at(self, place: Ranking, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return the randomised cumulative mass, shape (n, k)."""
        return place.above + (uniforms * place.tied if self.randomized else place.tied)
