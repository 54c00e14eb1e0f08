"""Sorted adaptive prediction sets."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.conformal._ranking import ranking
from trustml.conformal._score import Score


class Saps(Score):
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

    def __call__(self, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return the rank score, shape (n, c)."""
        rank, u = ranking(probabilities).rank, uniforms[:, None]
        largest = probabilities.max(dim=1, keepdim=True).values
        return torch.where(rank == 1, u * largest, largest + (rank - 2 + u) * self.weight)
