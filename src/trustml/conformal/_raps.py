"""Regularised adaptive prediction sets."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trustml.conformal._ranking import RankedScore, Ranking, ranking_of
from trustml.conformal._score import Score
from trustml.conformal._tuning import at_rank, share_to_learn, with_smallest_sets
from trustml.model import Model

_PENALTIES = (0.001, 0.01, 0.1, 0.2, 0.5)  # those of the paper, section 3.1


class Raps(RankedScore):
    """Adaptive sets with a penalty on every rank beyond ``k_reg``: no long tails.

    "auto" learns a parameter from a share of the calibration rows, drawn at random, which are
    then not calibrated on: the promise holds as for fixed parameters, at every alpha.

    Parameters
    ----------
    penalty : float or "auto"
        Added per rank beyond ``k_reg``, in units of probability, at least 0. "auto": of 0.001,
        0.01, 0.1, 0.2 and 0.5 the one with the smallest sets.
    k_reg : int or "auto"
        Ranks that are free, at least 0. "auto": the number of most probable classes that holds
        the label with probability 1 - alpha.
    randomized : bool
        False counts all of one's own mass.
    alpha : float in (0, 1)
        Error rate that "auto" has in view.
    share : float in (0, 1)
        Part of the calibration rows that "auto" learns from.

    Raises
    ------
    ValueError
        If ``penalty`` or ``k_reg`` is negative or another word, or ``alpha`` or ``share`` is
        outside (0, 1).

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

    def __init__(
        self,
        penalty: float | str = 0.01,
        k_reg: int | str = 2,
        randomized: bool = True,
        alpha: float = 0.1,
        share: float = 0.2,
    ) -> None:
        if not all(v == "auto" if isinstance(v, str) else v >= 0 for v in (penalty, k_reg)):
            raise ValueError(
                f"penalty and k_reg must be >= 0 or 'auto', got {penalty!r} and {k_reg!r}"
            )
        self.penalty, self.k_reg, self.randomized, self.alpha = penalty, k_reg, randomized, alpha
        self.share = share_to_learn(share, alpha, "auto" in (penalty, k_reg))

    def learnt(self, model: Model, probabilities: Tensor, labels: Tensor) -> Score:
        """Return the score with numbers for what is "auto"; itself where nothing is.

        Returns
        -------
        Raps
        """
        if not self.share:
            return self
        k_reg = self.k_reg
        penalties: Sequence[float | str] = (self.penalty,)
        if k_reg == "auto":
            ranks = ranking_of(probabilities, labels).rank[:, 0]
            k_reg = int(at_rank(ranks, self.alpha))
        if self.penalty == "auto":
            penalties = _PENALTIES
        candidates = [Raps(penalty, k_reg, self.randomized) for penalty in penalties]
        return with_smallest_sets(candidates, probabilities, labels, self.alpha)

    def at(self, place: Ranking, probabilities: Tensor, uniforms: Tensor) -> Tensor:
        """Return the penalised cumulative mass, shape (n, k).

        Parameters
        ----------
        place, probabilities, uniforms : Ranking, Tensor, Tensor
            As in `RankedScore`.

        Returns
        -------
        Tensor of shape (n, k)

        Raises
        ------
        ValueError
            If a parameter is still "auto".
        """
        if isinstance(self.penalty, str) or isinstance(self.k_reg, str):
            raise ValueError(
                "Raps has not learnt its 'auto' parameters: a predictor's fit lets it; elsewhere "
                "give penalty= and k_reg= numbers"
            )
        own = uniforms * place.tied if self.randomized else place.tied
        beyond = (place.rank - self.k_reg).clamp_min(0).to(own.dtype)
        return place.above + own + self.penalty * beyond
