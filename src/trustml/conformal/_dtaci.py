"""Dynamically tuned adaptive conformal inference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from trustml.conformal._adaptive_past import Controller, OnlineRule, Past, check_above_zero
from trustml.core.validation import check_positive_int


class DtAci(OnlineRule):
    """Many steps gamma at once, their levels averaged by exponential weights that forget.

    The step that did best over the last ``interval`` scores leads, so that the level follows
    slow drift with a small step and a change point with a large one.

    Parameters
    ----------
    gammas : sequence of float above 0
        Steps of the experts.
    interval : int
        Number of scores over which the error rate should be near alpha.

    Raises
    ------
    ValueError
        If there is no gamma.

    References
    ----------
    Gibbs and Candès (2022), Conformal inference for online prediction with arbitrary
    distribution shifts, arXiv:2208.08401, algorithm 1.

    Examples
    --------
    >>> from trustml.conformal import adaptive_thresholds
    >>> adaptive_thresholds([9.0, 9.0], 0.2, DtAci(), cal_scores=range(9)).level.round(4)
    array([0.2   , 0.1745])
    """

    name = "dtaci"

    def __init__(
        self,
        gammas: Sequence[float] = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128),
        interval: int = 500,
    ) -> None:
        if len(gammas) == 0:
            raise ValueError("gammas is empty; give at least one step")
        self.gammas = tuple(check_above_zero(gamma, "gamma") for gamma in gammas)
        self.interval = check_positive_int(interval, "interval")

    def start(self, alpha: Fraction, past: Past) -> DtAciController:
        """Return a controller of equal weights, all levels at alpha."""
        return DtAciController(np.array(self.gammas), float(alpha), self.interval)


class DtAciController(Controller):
    """Levels and weights of the experts."""

    def __init__(self, gammas: np.ndarray, alpha: float, interval: int) -> None:
        k = len(gammas)
        self.gammas, self.alpha = gammas, alpha
        self.levels, self.weights = np.full(k, alpha), np.full(k, 1 / k)
        self.mixing = 1 / (2 * interval)
        # The learning rate that is best for this interval if the levels are right (section 3.2).
        spread = (1 - alpha) ** 2 * alpha**3 + alpha**2 * (1 - alpha) ** 3
        self.rate = math.sqrt(3 / interval * (math.log(k * interval) + 2) / spread)

    def propose(self, past: Past) -> tuple[float, float]:
        """Return the quantile at the mean level, and that level."""
        # Before the first score all levels are alpha: no rounding may move the rank.
        same = bool((self.levels == self.levels[0]).all())
        level = float(self.levels[0] if same else self.weights @ self.levels)
        return past.threshold(Fraction(repr(level))), level

    def observe(self, score: float, missed: bool, past: Past) -> None:
        """Weigh the experts by the pinball loss of their levels, then move these."""
        beta = past.p_value(score)
        loss = self.alpha * (beta - self.levels) - np.minimum(0.0, beta - self.levels)
        weights = self.weights * np.exp(-self.rate * (loss - loss.min()))
        weights /= weights.sum()
        self.weights = (1 - self.mixing) * weights + self.mixing / len(weights)
        self.levels = self.levels + self.gammas * (self.alpha - (self.levels >= beta))
