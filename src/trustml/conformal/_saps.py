"""Sorted adaptive prediction sets."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.conformal._ranking import RankedScore, Ranking


class Saps(RankedScore):
    """Adaptive sets that trust only the largest probability and the ranks of the others.

    Score u p_max at rank 1, otherwise p_max + (rank - 2 + u) weight.

    Parameters
    ----------
    weight : float
        Price of a rank, in units of probability, above 0.

    Raises
    ------
    ValueError
        If ``weight`` is not positive.

    References
    ----------
    Huang, Xi, Zhang, Yao, Qiu and Wei (2024), Conformal prediction for deep classifier via label
    ranking, arXiv:2310.06430.

    Examples
    --------
    >>> import torch
    >>> Saps(weight=0.5)(torch.tensor([[0.75, 0.25]]), torch.tensor([0.5]))
    tensor([[0.3750, 1.0000]])
    """

    name = "saps"
    randomized = True

    def __init__(self, weight: float = 0.1) -> None:
        if not weight > 0:
            raise ValueError(f"weight must be > 0, got {weight!r}")
        self.weight = weight

    def at(self, place: Ranking, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return the rank score, shape (n, k)."""
        largest = probabilities.max(dim=1, keepdim=True).values
        later = largest + (place.rank - 2 + uniforms) * self.weight
        return torch.where(place.rank == 1, uniforms * largest, later)
