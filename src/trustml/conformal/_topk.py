"""Sets of the k most probable classes."""

from __future__ import annotations

from torch import Tensor

from trustml.conformal._ranking import RankedScore, Ranking


class TopK(RankedScore):
    """The k most probable classes, k found by calibration: the rank, broken at random.

    The random part makes the coverage exact; a row's set has k or k - 1 classes.

    References
    ----------
    Angelopoulos, Bates, Malik and Jordan (2021), Uncertainty sets for image classifiers using
    conformal prediction, arXiv:2009.14193, section 4.

    Examples
    --------
    >>> import torch
    >>> TopK()(torch.tensor([[0.75, 0.25]]), torch.tensor([0.5]))
    tensor([[0.5000, 1.5000]])
    """

    name = "topk"
    randomized = True

    def at(self, place: Ranking, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return rank - 1 + u, shape (n, k)."""
        return place.rank - 1 + uniforms
