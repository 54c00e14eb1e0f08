"""Choosing a score by the size of its sets, on rows that are then not calibrated on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trustml.conformal._score import Score
from trustml.evidence import conformal_rank, exact_alpha

_GOLDEN = 0.6180339887498949


def share_to_learn(share: float, alpha: float, learns: bool) -> float:
    """Return the share of the calibration rows that a score learns from: 0 if it does not.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If ``share`` or ``alpha`` is not in (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share!r}")
    exact_alpha(alpha)
    return share if learns else 0.0


def at_rank(values: Tensor, alpha: float) -> Tensor:
    """Return the conformal quantile of values (n,), their largest if there are too few."""
    return values.sort().values[min(conformal_rank(len(values), alpha), len(values)) - 1]


def with_smallest_sets(
    candidates: Sequence[Score], probabilities: Tensor, labels: Tensor, alpha: float
) -> Score:
    """Return the score whose sets are smallest on average; the first of equals.

    Parameters
    ----------
    candidates : sequence of Score
        What is compared.
    probabilities : Tensor of shape (n, c)
        Rows set aside for this.
    labels : Tensor of shape (n,)
        Their columns.
    alpha : float
        Error rate at which sizes are compared.

    Returns
    -------
    Score
    """
    # Evenly spread over the rows, which were drawn at random: as good as random for a mean size.
    uniforms = (torch.arange(1, len(labels) + 1, dtype=torch.float64) * _GOLDEN) % 1

    def size(score: Score) -> int:
        limit = at_rank(score.of_labels(probabilities, uniforms, labels), alpha)
        return int((score(probabilities, uniforms) <= limit).sum())

    return min(candidates, key=size)
