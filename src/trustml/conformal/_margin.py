"""Margin to the strongest rival."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.conformal._score import Score


class Margin(Score):
    """The largest probability among the other classes minus one's own, in [-1, 1].

    References
    ----------
    Linusson, Johansson, Boström and Löfström (2018), Classification with reject option using
    conformal prediction.

    Examples
    --------
    >>> import torch
    >>> Margin()(torch.tensor([[0.75, 0.25]]), torch.rand(1))
    tensor([[-0.5000,  0.5000]])
    """

    name = "margin"
    randomized = False

    def __call__(self, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return rival minus own, shape (n, c)."""
        two = probabilities.topk(2, dim=1)
        classes = torch.arange(probabilities.shape[1], device=probabilities.device)
        is_best = classes == two.indices[:, :1]
        return torch.where(is_best, two.values[:, 1:], two.values[:, :1]) - probabilities
