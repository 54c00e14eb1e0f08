"""Differentiable dependence between a classifier's margins and the groups."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

# (margins, group numbers, weights, sign of the label) -> a number that is 0 without dependence.
Penalty = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def covariance(margin: Tensor, group: Tensor, weight: Tensor, sign: float) -> Tensor:
    """Return the squared correlations of the margin with the groups' indicators, summed."""
    # Zafar et al. (2017) bound the covariance, which smaller margins lower as well.
    share = weight / weight.sum()
    centred = margin - share @ margin
    spread = (share @ centred.square()).clamp_min(torch.finfo(margin.dtype).tiny)
    indicators = _indicators(group, margin)
    rate = share @ indicators
    along = (share * centred) @ indicators
    return (along.square() / (rate * (1 - rate)).clamp_min(1e-12)).sum() / spread


def ferm(margin: Tensor, group: Tensor, weight: Tensor, sign: float) -> Tensor:
    """Return the variance over groups of the mean loss towards one label (Donini et al. 2018)."""
    indicators = _indicators(group, margin) * weight[:, None]
    risks = softplus(-sign * margin) @ indicators / indicators.sum(0)
    return (risks - risks.mean()).square().sum()


def mmd(margin: Tensor, group: Tensor, weight: Tensor, sign: float) -> Tensor:
    """Return the squared distances of groups' mean embeddings from that of all (Gretton 2012)."""
    share = weight / weight.sum()
    indicators = _indicators(group, margin) * weight[:, None]
    apart = indicators / indicators.sum(0) - share[:, None]
    return (apart * (_kernel(margin, share) @ apart)).sum()


def hsic(margin: Tensor, group: Tensor, weight: Tensor, sign: float) -> Tensor:
    """Return the Hilbert-Schmidt independence criterion, scaled to [0, 1] (Gretton et al. 2005)."""
    share = weight / weight.sum()
    indicators = _indicators(group, margin)
    a = _centred(_kernel(margin, share), share)
    b = _centred(indicators @ indicators.T, share)
    joint = torch.outer(share, share)
    norms = ((joint * a.square()).sum() * (joint * b.square()).sum()).clamp_min(1e-24).sqrt()
    return (joint * a * b).sum() / norms


PENALTIES: dict[str, Penalty] = {
    "covariance": covariance,
    "hsic": hsic,
    "mmd": mmd,
    "ferm": ferm,
}


def _indicators(group: Tensor, like: Tensor) -> Tensor:
    """Return one column of 0 and 1 for each group that occurs, shape (n, k)."""
    columns = one_hot(group).to(like)
    return columns[:, columns.any(0)]


def _kernel(margin: Tensor, share: Tensor) -> Tensor:
    with torch.no_grad():
        spread = share @ (margin - share @ margin).square()
        width = spread.clamp_min(torch.finfo(margin.dtype).tiny)
    return torch.exp(-(margin[:, None] - margin[None, :]).square() / (2 * width))


def _centred(kernel: Tensor, share: Tensor) -> Tensor:
    mean = kernel @ share
    return kernel - mean[:, None] - mean[None, :] + share @ mean
