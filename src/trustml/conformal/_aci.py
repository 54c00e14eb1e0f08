"""Adaptive conformal inference."""

from __future__ import annotations

from fractions import Fraction

from trustml.conformal._adaptive_past import (
    Controller,
    OnlineRule,
    Past,
    check_above_zero,
)


class Aci(OnlineRule):
    """Adaptive conformal inference: a miss lowers the level by gamma (1 - alpha), a hit raises it.

    On any stream, even one chosen by an adversary, the share of misses in T steps is within
    (max(alpha, 1 - alpha) + gamma) / (gamma T) of alpha. A level of 0 or less covers
    everything, of 1 or more nothing; this is what the bound rests on. Levels are rational
    numbers, so no rounding piles up.

    Parameters
    ----------
    gamma : float above 0
        Step of the level. Larger follows changes faster, with widths that vary more.

    References
    ----------
    Gibbs and Candès (2021), Adaptive conformal inference under distribution shift,
    arXiv:2106.00170, equation 2 and proposition 4.1.

    Examples
    --------
    >>> from trustml.conformal import adaptive_thresholds
    >>> trace = adaptive_thresholds([9.0, 9.0, 0.0], 0.2, Aci(0.1), cal_scores=range(9))
    >>> trace.level.round(2), trace.threshold
    (array([0.2 , 0.12, 0.14]), array([7., 9., 9.]))
    """

    name = "aci"

    def __init__(self, gamma: float = 0.02) -> None:
        self.gamma = check_above_zero(gamma, "gamma")

    def start(self, alpha: Fraction, past: Past) -> AciController:
        """Return a controller whose level is alpha."""
        return AciController(alpha, Fraction(repr(self.gamma)))


class AciController(Controller):
    """One level, moved by hits and misses."""

    def __init__(self, alpha: Fraction, gamma: Fraction) -> None:
        self.alpha, self.gamma, self.level = alpha, gamma, alpha

    def propose(self, past: Past) -> tuple[float, float]:
        """Return the quantile at the level, and the level."""
        return past.threshold(self.level), float(self.level)

    def observe(self, score: float, missed: bool, past: Past) -> None:
        """Move the level."""
        self.level += self.gamma * (self.alpha - missed)
