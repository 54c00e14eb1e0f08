"""Regularised adaptive prediction sets."""

from __future__ import annotations

from torch import Tensor

from trustml.conformal._ranking import RankedScore, Ranking


class Raps(RankedScore):
    """Adaptive sets with a penalty on every rank beyond ``k_reg``: no long tails.

    Parameters
    ----------
    penalty : float
        Added per rank beyond ``k_reg``, in units of probability, at least 0.
    k_reg : int
        Ranks that are free, at least 0.
    randomized : bool
        False counts all of one's own mass.

    Raises
    ------
    ValueError
        If ``penalty`` or ``k_reg`` is negative.

    References
    ----------
    Angelopoulos, Bates, Malik and Jordan (2021), Uncertainty sets for image classifiers using
    conformal prediction, arXiv:2009.14193.

    Examples
    --------
    >>> import torch
    >>> score = Raps(penalty=0.5, k_reg=1, randomized=False)
    >>> score(torch.tensor([[0.5, 0.25, 0.25]]), torch.rand(1))
    tensor([[0.5000, 1.5000, 1.5000]])
    """

    name = "raps"

    def __init__(self, penalty: float = 0.01, k_reg: int = 2, randomized: bool = True) -> None:
        if not penalty >= 0 or not k_reg >= 0:
            raise ValueError(f"penalty and k_reg must be >= 0, got {penalty!r} and {k_reg!r}")
        self.penalty, self.k_reg, self.randomized = penalty, k_reg, randomized

    def at(self, place: Ranking, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return the penalised cumulative mass, shape (n, k)."""
        own = uniforms * place.tied if self.randomized else place.tied
        return place.above + own + self.penalty * (place.rank - self.k_reg).clamp_min(0)
