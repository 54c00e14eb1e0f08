"""Conformal PID control."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from trustml.conformal._adaptive_past import Controller, OnlineRule, Past, check_above_zero
from trustml.core.validation import check_positive_int

Scorecaster = Callable[[np.ndarray], Any]


class Pid(OnlineRule):
    r"""Control of the threshold itself: quantile tracking, error integration, a forecast of scores.

    With the misses so far in excess of their expected number,
    :math:`E_t = \sum_{i \le t} (\mathrm{miss}_i - \alpha)`, the next threshold is

    .. math:: q_{t+1} = g_{t+1} + p_{t+1}
        + K \tan\Big(\frac{E_t \log(t+1)}{C\,(t+1)}\Big), \qquad
        p_{t+1} = p_t + \eta_t(\mathrm{miss}_t - \alpha),

    the tangent infinite beyond :math:`\pm\pi/2`. On any stream the share of misses is therefore
    within :math:`(C \pi (T + 1) / (2 \log(T + 1)) + 1) / T` of alpha. The step :math:`\eta_t` is
    ``rate`` times the spread of the last ``window`` scores.

    Parameters
    ----------
    rate : float above 0
        Step of quantile tracking, as a share of the spread of the scores.
    gain : float of at least 0, or None
        K, in the unit of the scores; 0 turns the integration off, and the promise with it. None:
        the largest absolute calibration score (1 if there is none).
    saturation : float above 0
        C; smaller forces the error rate to alpha sooner.
    window : int
        Scores behind the step.
    scorecaster : callable (past scores (t,)) -> float, or None
        Forecast g of the next quantile of the score; None: none.

    Raises
    ------
    ValueError
        If ``gain`` is negative or not finite.

    References
    ----------
    Angelopoulos, Candès and Tibshirani (2023), Conformal PID control for time series
    prediction, arXiv:2307.16895, equations 4 to 6.

    Examples
    --------
    >>> from trustml.conformal import adaptive_thresholds
    >>> rule = Pid(rate=0.1, gain=0)
    >>> adaptive_thresholds([9.0, 0.0, 0.0], 0.2, rule, cal_scores=range(9)).threshold.round(2)
    array([7.  , 7.72, 7.54])
    """

    name = "pid"

    def __init__(
        self,
        rate: float = 0.1,
        gain: float | None = None,
        saturation: float = 2 / math.pi,
        window: int = 100,
        scorecaster: Scorecaster | None = None,
    ) -> None:
        if gain is not None and not (math.isfinite(gain) and gain >= 0):
            raise ValueError(f"gain must be None or a finite number of at least 0, got {gain!r}")
        self.rate, self.gain = check_above_zero(rate, "rate"), gain
        self.saturation = check_above_zero(saturation, "saturation")
        self.window = check_positive_int(window, "window")
        self.scorecaster = scorecaster

    def start(self, alpha: Fraction, past: Past) -> PidController:
        """Return a controller at the conformal quantile of the calibration scores."""
        return PidController(self, alpha, past)


class PidController(Controller):
    """The tracked quantile and the integrated error."""

    def __init__(self, rule: Pid, alpha: Fraction, past: Past) -> None:
        scores = np.array(past.in_time)
        self.rule, self.alpha = rule, alpha
        self.gain = rule.gain
        if self.gain is None:
            self.gain = (float(np.abs(scores).max()) if len(scores) else 0.0) or 1.0
        self.recent: deque[float] = deque(scores, maxlen=rule.window)
        self.history = scores.tolist()
        start = past.threshold(alpha)
        if math.isinf(start):  # too few scores: begin at the largest, or at zero
            start = past.sorted[-1] if len(past) else 0.0
        self.tracked = start - self.forecast()
        self.excess, self.steps = Fraction(0), 0

    def propose(self, past: Past) -> tuple[float, float]:
        """Return the controlled threshold; no level stands behind it."""
        return self.tracked + self.integrated() + self.forecast(), math.nan

    def observe(self, score: float, missed: bool, past: Past) -> None:
        """Track the quantile and integrate the error."""
        self.recent.append(score)
        if self.rule.scorecaster is not None:
            self.history.append(score)
        step = self.rule.rate * ((max(self.recent) - min(self.recent)) or abs(score))
        self.tracked += step * float(missed - self.alpha)
        self.excess += missed - self.alpha
        self.steps += 1

    def integrated(self) -> float:
        """Return K tan(...), infinite where it saturates."""
        time = self.steps + 1
        angle = float(self.excess) * math.log(time) / (self.rule.saturation * time)
        if not self.gain:
            return 0.0
        if abs(angle) >= math.pi / 2:
            return math.copysign(math.inf, angle)
        return self.gain * math.tan(angle)

    def forecast(self) -> float:
        """Return the scorecaster's forecast, which must be finite."""
        if self.rule.scorecaster is None:
            return 0.0
        value = float(self.rule.scorecaster(np.array(self.history)))
        if not math.isfinite(value):
            raise ValueError(f"scorecaster must return a finite number, got {value}")
        return value
