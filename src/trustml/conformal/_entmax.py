"""Distance to the support of a sparse softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trustml.conformal._score import Score
from trustml.conformal._tuning import share_to_learn, with_smallest_sets
from trustml.model import Model

_GAMMAS = (1.0, 1.25, 1.5, 2.0)
_MOST = 100  # the norm's order: 709, the largest gap, to this power is still a float


class Entmax(Score):
    r"""How far the logit of a class is behind those of the more probable classes.

    The set at a threshold is the support of the :math:`\gamma`-entmax of the logits at one
    temperature: calibrating is finding that temperature. The score is
    :math:`\|(z_j - z_k)_{j: z_j \ge z_k}\|_\delta` with :math:`\delta = 1 / (\gamma - 1)` and
    :math:`z = \log p`. The most probable class scores 0 and is in every set.

    Parameters
    ----------
    gamma : float or "auto"
        1: log-margin, the logarithm of the odds against the most probable class. 1.5: entmax.
        2: sparsemax, the gaps summed. Between them 1 + 1/d for whole d. "auto": of 1, 1.25, 1.5
        and 2 the one with the smallest sets on a share of the calibration rows, drawn at random,
        which are then not calibrated on.
    alpha : float in (0, 1)
        Error rate that "auto" has in view.
    share : float in (0, 1)
        Part of the calibration rows that "auto" learns from.

    Raises
    ------
    ValueError
        If ``gamma`` is none of these, or ``alpha`` or ``share`` is outside (0, 1).

    Notes
    -----
    A probability of exactly 0 counts as the smallest normal number of its type: behind every
    other class, and the further the surer the model is of these.

    References
    ----------
    Campos, Cálem, Sklaviadis, Figueiredo and Martins (2025), Sparse activations as conformal
    predictors, arXiv:2502.14773.

    Examples
    --------
    >>> import torch
    >>> Entmax(gamma=2)(torch.tensor([[0.0, -0.5, -1.0]]).exp(), torch.rand(1))
    tensor([[0.0000, 0.5000, 1.5000]])
    """

    name = "entmax"
    randomized = False

    def __init__(self, gamma: float | str = 1.5, alpha: float = 0.1, share: float = 0.2) -> None:
        order = math.nan if isinstance(gamma, str) else _order(gamma)
        if math.isnan(order) and gamma != "auto":
            raise ValueError(
                f"gamma must be 'auto', 1, or 1 + 1/d for a whole d up to {_MOST} (2, 1.5, 1.25, "
                f"...), got {gamma!r}"
            )
        self.gamma, self.alpha, self._order = gamma, alpha, order
        self.share = share_to_learn(share, alpha, gamma == "auto")

    def learnt(self, model: Model, probabilities: Tensor, labels: Tensor) -> Score:
        """Return the score with a number for "auto"; itself where there is one.

        Returns
        -------
        Entmax
        """
        if not self.share:
            return self
        candidates = [Entmax(gamma) for gamma in _GAMMAS]
        return with_smallest_sets(candidates, probabilities, labels, self.alpha)

    def __call__(self, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return the norm of the gaps to the more probable classes, shape (n, c)."""
        logits = _log(probabilities)
        if self._order == math.inf:
            return logits.max(dim=1, keepdim=True).values - logits
        ordered, order = logits.sort(dim=1, descending=True)
        return torch.empty_like(logits).scatter_(1, order, self._norms(ordered))

    def of_labels(self, probabilities: Tensor, uniforms: Tensor, labels: Tensor) -> Tensor:
        """Return the norms (n,) of one class a row; only the classes above it are sorted."""
        own = probabilities.gather(1, labels[:, None])
        if self._order == math.inf:
            return (_log(probabilities.max(dim=1, keepdim=True).values) - _log(own))[:, 0]
        row, column = (probabilities > own).nonzero(as_tuple=True)
        above, order = _log(probabilities[row, column]).sort(descending=True)
        row, by_row = row[order].sort(stable=True)
        count = torch.bincount(row, minlength=len(own))
        place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        # Filled up with the class itself: gaps of 0 at the end add nothing.
        ordered = _log(own).repeat(1, int(count.max()) + 1)
        ordered[row, place] = above[by_row]
        return self._norms(ordered)[:, -1]

    def _norms(self, ordered: Tensor) -> Tensor:
        """Return the score at every place of falling logits, shape (n, k)."""
        if math.isnan(self._order):
            raise ValueError(
                "Entmax has not learnt its gamma: a predictor's fit lets it; elsewhere give gamma= "
                "a number"
            )
        step = -ordered.diff(dim=1, prepend=ordered[:, :1])
        sums = step  # replaced: the order is at least 1
        before = [torch.arange(ordered.shape[1], device=step.device).expand_as(step).to(step)]
        # From one class to the next every gap grows by the step, and its powers by the binomial
        # theorem: sums of terms that are at least 0, and of steps exactly 0 between equals.
        for order in range(1, int(self._order) + 1):
            terms = [
                math.comb(order, i) * step ** (order - i) * lower for i, lower in enumerate(before)
            ]
            sums = torch.stack(terms).sum(dim=0).cumsum(dim=1)
            before.append(sums.roll(1, dims=1))  # the step into the first place is 0
        return sums ** (1 / self._order)


def _order(gamma: float) -> float:
    """Return the order of the norm, 1 / (gamma - 1); NaN if it is not whole."""
    if gamma == 1:
        return math.inf
    order = 1 / (gamma - 1) if gamma > 1 else math.nan
    whole = round(order) if 1 <= order <= _MOST + 0.5 else 0
    return float(whole) if whole and math.isclose(order, whole, rel_tol=1e-6) else math.nan


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
