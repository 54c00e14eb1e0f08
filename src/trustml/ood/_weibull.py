"""Weibull distributions of the largest of some distances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

_STEEPEST = 1e3  # the shape of equal excesses would be infinite


@dataclass(frozen=True, eq=False)
class Tails:
    """Where each of k tails starts, and the Weibull distribution of the excess over it.

    Attributes
    ----------
    start, scale, shape : Tensor of shape (k,)
        A tail that nothing is known of starts at infinity.
    """

    start: Tensor
    scale: Tensor
    shape: Tensor

    @classmethod
    def of(cls, distances: list[Tensor], sizes: list[int]) -> Tails:
        """Fit to the largest ``sizes`` of float64 distances, each list a tail."""
        found = [_fit(each, size) for each, size in zip(distances, sizes, strict=True)]
        start, scale, shape = torch.tensor(found, dtype=torch.float64, device=distances[0].device).T
        return cls(start, scale, shape)

    def probability(self, distances: Tensor) -> Tensor:
        """Return the distribution functions (n, k) at distances (n, k); 0 below the start."""
        excess = (distances - self.start).clamp_min(0) / self.scale
        return -torch.expm1(-(excess**self.shape))


def _fit(distances: Tensor, size: int) -> tuple[float, float, float]:
    """Return start, scale and shape: the largest distance outside the tail, and the likeliest."""
    ordered = distances.sort().values
    size = min(size, len(ordered) - 1)
    if size < 1:
        return math.inf, 1.0, 1.0
    start = float(ordered[-size - 1])
    excess = ordered[-size:] - start
    excess = excess[excess > 0]
    if len(excess) == 0:
        return start, max(abs(start), 1.0) * torch.finfo(ordered.dtype).eps, 1.0
    unit = float(excess.max())
    logs = (excess / unit).log()
    if float(logs.min()) == 0:
        return start, unit, _STEEPEST

    def slope(shape: float) -> float:
        """Return minus the derivative of the mean log likelihood in the shape; it rises."""
        weights = (shape * logs).softmax(dim=0)
        return float((weights * logs).sum() - logs.mean()) - 1 / shape

    shape = _STEEPEST if slope(_STEEPEST) < 0 else brentq(slope, 1e-6, _STEEPEST, xtol=1e-13)
    log_scale = float((shape * logs).logsumexp(dim=0) - math.log(len(logs))) / shape
    return start, unit * math.exp(log_scale), shape
