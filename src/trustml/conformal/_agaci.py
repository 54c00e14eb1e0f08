"""Aggregated adaptive conformal inference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from trustml.conformal._aci import Aci
from trustml.conformal._adaptive_past import Controller, OnlineRule, Past, check_above_zero


class AgAci(OnlineRule):
    """Many steps gamma at once, their thresholds averaged by how well they predicted quantiles.

    Each gamma runs its own `Aci`; Bernstein online aggregation weighs their thresholds by the
    pinball loss at 1 - alpha. Nothing to choose, and no proven coverage. As an infinite
    threshold has no average, one beyond the past scores counts as the largest (or smallest) of
    them.

    Parameters
    ----------
    gammas : sequence of float above 0
        Steps of the experts.

    Raises
    ------
    ValueError
        If there is no gamma.

    References
    ----------
    Zaffran, Féron, Goude, Josse and Dieuleveut (2022), Adaptive conformal predictions for time
    series, arXiv:2202.07282. Wintenberger (2017), Optimal learning with Bernstein online
    aggregation, arXiv:1404.1356, section 3.

    Examples
    --------
    >>> from trustml.conformal import adaptive_thresholds
    >>> adaptive_thresholds([1.0, 2.0], 0.2, AgAci(), cal_scores=range(9)).threshold
    array([7., 7.])
    """

    name = "agaci"

    def __init__(
        self, gammas: Sequence[float] = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)
    ) -> None:
        if len(gammas) == 0:
            raise ValueError("gammas is empty; give at least one step")
        self.gammas = tuple(check_above_zero(gamma, "gamma") for gamma in gammas)

    def start(self, alpha: Fraction, past: Past) -> AgAciController:
        """Return a controller of equal weights."""
        return AgAciController([Aci(g).start(alpha, past) for g in self.gammas], float(alpha))


class AgAciController(Controller):
    """Weights over experts, by their regret against the average so far."""

    def __init__(self, experts: Sequence[Controller], alpha: float) -> None:
        self.experts, self.alpha, k = experts, alpha, len(experts)
        self.rate, self.regret = np.zeros(k), np.zeros(k)
        self.largest, self.squares = np.zeros(k), np.zeros(k)
        self.proposed = np.zeros((k, 2))

    @property
    def weights(self) -> np.ndarray:
        """Share of each expert."""
        exponent = self.rate * self.regret
        weight = np.exp(exponent - exponent.max())
        return np.asarray(weight / weight.sum())

    def propose(self, past: Past) -> tuple[float, float]:
        """Return the weighted means of the experts' thresholds and of their levels."""
        self.proposed = np.array([expert.propose(past) for expert in self.experts])
        if len(past) == 0:
            return math.inf, self.alpha
        mean = self.weights @ self.bounded(past)
        return float(mean[0]), float(mean[1])

    def bounded(self, past: Past) -> np.ndarray:
        """Return thresholds inside the past scores, and levels."""
        inside = self.proposed[:, 0].clip(past.sorted[0], past.sorted[-1])
        return np.stack([inside, self.proposed[:, 1]], axis=1)

    def observe(self, score: float, missed: bool, past: Past) -> None:
        """Move every expert by its own miss, and the weights by the pinball loss."""
        if len(past):
            thresholds = self.bounded(past)[:, 0]
            # Slope of the pinball loss at the average, where the experts are compared.
            slope = self.alpha - float(missed)
            gain = slope * (self.weights @ thresholds - thresholds)
            self.largest = np.maximum(self.largest, np.abs(gain))
            self.squares = self.squares + gain**2
            with np.errstate(divide="ignore"):
                rate = np.minimum(
                    0.5 / self.largest, np.sqrt(math.log(max(2, len(gain))) / self.squares)
                )
            self.rate = np.where(self.squares > 0, rate, 0.0)
            late = self.largest * (self.rate * gain > 0.5)
            self.regret = self.regret + (gain - self.rate * gain**2 + late) / 2
        for expert, (threshold, _) in zip(self.experts, self.proposed, strict=True):
            expert.observe(score, bool(score > threshold), past)
