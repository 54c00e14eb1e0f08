"""Distance to the support of a sparse softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from trustml.conformal._score import Score

_GAMMAS = (1.0, 1.5, 2.0)


class Entmax(Score):
    r"""How far the logit of a class is behind those of the more probable classes.

    The set at a threshold is the support of the :math:`\gamma`-entmax of the logits at one
    temperature: calibrating is finding that temperature. The score is
    :math:`\|(z_j - z_k)_{j: z_j \ge z_k}\|_\delta` with :math:`\delta = 1 / (\gamma - 1)` and
    :math:`z = \log p`. The most probable class scores 0 and is in every set.

    Parameters
    ----------
    gamma : {1, 1.5, 2}
        1: log-margin, the logarithm of the odds against the most probable class. 1.5: entmax.
        2: sparsemax, the gaps summed.

    Raises
    ------
    ValueError
        If ``gamma`` is none of these.

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

    def __init__(self, gamma: float = 1.5) -> None:
        if gamma not in _GAMMAS:
            raise ValueError(f"gamma must be one of {_GAMMAS}, got {gamma!r}")
        self.gamma = gamma

    def __call__(self, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return the norm of the gaps to the more probable classes, shape (n, c)."""
        logits = _log(probabilities)
        if self.gamma == 1:
            return logits.max(dim=1, keepdim=True).values - logits
        ordered, order = logits.sort(dim=1, descending=True)
        return torch.empty_like(logits).scatter_(1, order, self._norms(ordered))

    def of_labels(self, probabilities: Tensor, uniforms: Tensor, labels: Tensor) -> Tensor:
        """Return the norms (n,) of one class a row; only the classes above it are sorted."""
        own = probabilities.gather(1, labels[:, None])
        if self.gamma == 1:
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
        step = -ordered.diff(dim=1, prepend=ordered[:, :1])
        above = torch.arange(ordered.shape[1], device=ordered.device)
        # From one class to the next every gap grows by the step: sums of terms that are at least
        # 0, and of steps that are exactly 0 between equals.
        scores = (above * step).cumsum(dim=1)
        if self.gamma == 1.5:
            before = scores.roll(1, dims=1)  # the step into the first place is 0
            scores = (2 * step * before + above * step**2).cumsum(dim=1).sqrt()
        return scores


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
