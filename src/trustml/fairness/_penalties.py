"""Differentiable dependence between a classifier's margins and the groups."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

# (margins, group numbers, weights, sign of the label) -> 0 without dependence, in units of a norm:
# unlike its square, it pulls as hard near 0 as far away.
Penalty = Callable[[Tensor, Tensor, Tensor, float], Tensor]

_ROUND = 1e-8  # squared; below, the norm is smoothed
_ALIKE = 1e-12  # variance of soft decisions below which they are equal but for rounding


def covariance(margin: Tensor, group: Tensor, weight: Tensor, sign: float) -> Tensor:
    """Return the norm of the correlations of soft decisions with the groups' indicators."""
    # Zafar et al. (2017) bound the covariance with the margin, for convexity's sake; networks can
    # then hide dependence in the size of margins, and shrink them all.
    share, decision = weight / weight.sum(), torch.sigmoid(margin)
    centred = decision - share @ decision
    spread = (share @ centred.square()).clamp_min(_ALIKE)
    indicators = _indicators(group, margin)
    rate = share @ indicators
    along = (share * centred) @ indicators
    return _norm((along.square() / (rate * (1 - rate)).clamp_min(1e-12)).sum() / spread)


def ferm(margin: Tensor, group: Tensor, weight: Tensor, sign: float) -> Tensor:
    """Return how far the groups' mean losses towards one label are apart (Donini et al. 2018)."""
    indicators = _indicators(group, margin) * weight[:, None]
    risks = softplus(-sign * margin) @ indicators / indicators.sum(0)
    return _norm((risks - risks.mean()).square().sum())


def mmd(margin: Tensor, group: Tensor, weight: Tensor, sign: float) -> Tensor:
    """Return the distance of groups' mean embeddings from that of all rows (Gretton 2012)."""
    share = weight / weight.sum()
    indicators = _indicators(group, margin) * weight[:, None]
    apart = indicators / indicators.sum(0) - share[:, None]
    return _norm((apart * (_kernel(margin, share) @ apart)).sum())


def hsic(margin: Tensor, group: Tensor, weight: Tensor, sign: float) -> Tensor:
    """Return the root of the Hilbert-Schmidt independence criterion, scaled to [0, 1]."""
    share = weight / weight.sum()
    indicators = _indicators(group, margin)
    a = _centred(_kernel(margin, share), share)
    b = _centred(indicators @ indicators.T, share)
    joint = torch.outer(share, share)
    norms = ((joint * a.square()).sum() * (joint * b.square()).sum()).clamp_min(1e-24).sqrt()
    return _norm((joint * a * b).sum() / norms)


PENALTIES: dict[str, Penalty] = {
    "covariance": covariance,
    "hsic": hsic,
    "mmd": mmd,
    "ferm": ferm,
}

QUADRATIC = ("hsic", "mmd")  # in the rows


def _indicators(group: Tensor, like: Tensor) -> Tensor:
    """Return one column of 0 and 1 for each group that occurs, shape (n, k)."""
    columns = one_hot(group).to(like)
    return columns[:, columns.any(0)]


def _norm(square: Tensor) -> Tensor:
    return (square.clamp_min(0) + _ROUND).sqrt() - math.sqrt(_ROUND)


def _kernel(margin: Tensor, share: Tensor) -> Tensor:
    """Return a Gaussian kernel of soft decisions, as wide as their standard deviation."""
    decision = torch.sigmoid(margin)
    with torch.no_grad():
        spread = share @ (decision - share @ decision).square()
        width = spread.clamp_min(_ALIKE)
    return torch.exp(-(decision[:, None] - decision[None, :]).square() / (2 * width))


def _centred(kernel: Tensor, share: Tensor) -> Tensor:
    mean = kernel @ share
    return kernel - mean[:, None] - mean[None, :] + share @ mean
