"""Several p-values of one row made one, and scores turned into surprises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaincc
from torch import Tensor

from trustml.core.validation import check_choice, restore, to_numpy

METHODS = ("fisher", "cauchy", "harmonic")

_TAIL = 0.1
_FEWEST_IN_TAIL = 5
_FAR = 30.0  # nats: from here cot(pi p) is 1 / (pi p) in double precision


def fuse_pvalues(p: Any, method: str = "cauchy") -> Any:
    r"""Return one p-value a row from those of several detectors, layers or tests.

    Parameters
    ----------
    p : array of shape (n, k)
        p-values in [0, 1], k a row, such as the values of ``Suite.p_values``.
    method : {"fisher", "cauchy", "harmonic"}
        "fisher": :math:`-2 \sum \log p` against chi-squared with 2k degrees; valid for
        independent p-values only, and those of detectors of one model are not. "cauchy": the mean
        of :math:`\cot(\pi p)` against Cauchy's distribution; exact for independent p-values, and
        in the limit of small ones under most kinds of dependence. "harmonic": the harmonic mean
        times :math:`e \log k` (2 for k = 2), at most 1; valid under any dependence.

    Returns
    -------
    array of shape (n,)
        p-values in [0, 1], of the kind of ``p``.

    Raises
    ------
    ValueError
        If ``p`` is not (n, k), or not in [0, 1].

    References
    ----------
    Fisher (1932), Statistical Methods for Research Workers, section 21.1. Liu and Xie (2020),
    Cauchy combination test, arXiv:1808.09011. Vovk and Wang (2020), Combining p-values via
    averaging, arXiv:1212.4966.

    Examples
    --------
    >>> fuse_pvalues([[0.01, 0.02, 0.9], [0.4, 0.5, 0.6]], "harmonic").round(3)
    array([0.059, 1.   ])
    """
    check_choice(method, "method", METHODS)
    values = np.asarray(to_numpy(p), dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"p must have shape (n, k), k p-values a row, got {values.shape}")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p must be in [0, 1], and not NaN")
    return restore(_FUSIONS[method](values), p)


def _fisher(p: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.asarray(gammaincc(p.shape[1], -np.log(p).sum(axis=1)))


def _cauchy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        # A p-value of 1 says nothing against the null, however small the others are.
        total = (1 / np.tan(np.pi * p.clip(max=1 - 1e-12))).mean(axis=1)
    return np.asarray(np.arctan2(1.0, total) / np.pi)


def _harmonic(p: NDArray[np.float64]) -> NDArray[np.float64]:
    k = p.shape[1]
    with np.errstate(divide="ignore"):
        mean = 1 / (1 / p).mean(axis=1)
    factor = k if k <= 2 else math.e * math.log(k)
    return np.asarray((factor * mean).clip(max=1.0))


_FUSIONS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "fisher": _fisher, "cauchy": _cauchy, "harmonic": _harmonic,
}  # fmt: skip


def fuse_surprises(surprises: Tensor, weights: Tensor, method: str) -> Tensor:
    """Return one score (n,) from surprises (n, k) in nats, minus the logs of p-values."""
    # All from the logs, so that far rows do not tie.
    if method == "fisher":
        return surprises @ weights
    shares = weights / weights.sum()
    if method == "harmonic":
        return torch.logsumexp(surprises + shares.log(), dim=1)
    top = surprises.amax(dim=1, keepdim=True)
    near = surprises.clamp(1e-12, _FAR)
    cot = 1 / torch.tan(torch.pi * torch.exp(-near)) * torch.exp(-top)
    far = torch.exp(surprises - top) / torch.pi
    scaled = torch.where(surprises < _FAR, cot, far) @ shares
    # T = scaled * e^top; of large T the p-value is 1 / (pi T).
    small = top[:, 0] < _FAR
    total = scaled * torch.exp(top[:, 0].clamp_max(_FAR))
    exact = -torch.log(torch.atan2(torch.ones_like(total), total) / torch.pi)
    tiny = torch.finfo(scaled.dtype).tiny
    return torch.where(small, exact, top[:, 0] + scaled.clamp_min(tiny).log() + math.log(math.pi))


@dataclass(frozen=True, eq=False)
class Surprise:
    """How unusual a score is, in nats: minus the log of its estimated exceedance probability.

    Attributes
    ----------
    held_out : Tensor of shape (m,)
        In-distribution scores, ascending.
    start : float
        Where the exponential tail begins.
    level : float
        The surprise there.
    scale : float
        Mean excess of the held-out scores over ``start``.
    """

    held_out: Tensor
    start: float
    level: float
    scale: float

    @classmethod
    def of(cls, scores: Tensor) -> Surprise:
        """Estimate the distribution of float64 in-distribution scores."""
        ordered = scores.sort().values
        m = len(ordered)
        in_tail = min(max(math.ceil(_TAIL * m), _FEWEST_IN_TAIL), m - 1)
        start = float(ordered[m - 1 - in_tail])
        excess = ordered[ordered > start] - start
        # A detector that is constant on the held-out rows has no scale of its own.
        scale = float(excess.mean()) if len(excess) else max(abs(start), 1.0)
        return cls(ordered, start, -math.log((1 + in_tail) / (m + 1)), scale)

    def __call__(self, scores: Tensor) -> Tensor:
        """Return the surprise of new scores, shape (n,); non-decreasing in the score."""
        m = len(self.held_out)
        at_least = m - torch.searchsorted(self.held_out, scores)
        rank = -torch.log((1 + at_least).double() / (m + 1))
        tail = self.level + (scores - self.start) / self.scale
        return torch.where(scores > self.start, tail, rank.clamp_max(self.level))
