"""Thresholds that follow a stream of scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from trustml.conformal._adaptive_past import OnlineRule, Past
from trustml.conformal._listed import listed
from trustml.core.results import Result
from trustml.core.validation import check_positive_int, to_numpy
from trustml.evidence import exact_alpha


@dataclass(frozen=True, eq=False, repr=False)
class AdaptiveTrace(Result):
    """What an online method did, step by step.

    Attributes
    ----------
    score : ndarray of shape (t,)
        Scores in order of time.
    threshold : ndarray of shape (t,)
        Threshold that stood before each score was seen; infinite covers everything or nothing.
    level : ndarray of shape (t,)
        Error rate asked of the past scores; NaN where the method has none (PID).
    missed : bool ndarray of shape (t,)
        Whether the score was above its threshold.
    alpha : float
        Error rate aimed at.
    """

    score: np.ndarray
    threshold: np.ndarray
    level: np.ndarray
    missed: np.ndarray
    alpha: float

    def _columns(self) -> dict[str, Any]:
        names = ("score", "threshold", "level", "missed")
        return {name: getattr(self, name) for name in names}

    def _title(self) -> str:
        shown = f"{self.missed.mean():.4g}" if len(self.missed) else "none yet"
        return f"AdaptiveTrace: {len(self.score)} scores, missed {shown} (aim {self.alpha:g})"


class Run:
    """One rule at one alpha along one stream.

    Parameters
    ----------
    rule : OnlineRule
        How the threshold moves.
    alpha : Fraction
        Error rate aimed at.
    calibration : iterable of float
        Scores before the stream.
    window : int or None
        Past scores that are kept.
    """

    def __init__(
        self, rule: OnlineRule, alpha: Fraction, calibration: Iterable[float], window: int | None
    ) -> None:
        self.alpha, self.past = alpha, Past(calibration, window)
        self.controller = rule.start(alpha, self.past)
        self.steps: list[tuple[float, float, float, bool]] = []
        self.threshold, self.level = self.controller.propose(self.past)

    def observe(self, scores: Iterable[float]) -> Run:
        """Take in scores in order of time."""
        for score in scores:
            missed = score > self.threshold
            self.steps.append((score, self.threshold, self.level, missed))
            self.controller.observe(score, missed, self.past)
            self.past.add(score)
            self.threshold, self.level = self.controller.propose(self.past)
        return self

    def trace(self) -> AdaptiveTrace:
        """Return what happened so far."""
        columns = np.array(self.steps, dtype=np.float64).reshape(-1, 4)
        score, threshold, level, missed = columns.T.copy()
        return AdaptiveTrace(score, threshold, level, missed.astype(bool), float(self.alpha))


def as_online_rule(method: str | OnlineRule) -> OnlineRule:
    """Return a rule from its name, or an `OnlineRule` as it is.

    Returns
    -------
    OnlineRule

    Raises
    ------
    ValueError
        If no rule has this name; the message lists those that exist.
    """
    known = listed(OnlineRule)  # type: ignore[type-abstract]
    if isinstance(method, OnlineRule):
        return method
    if not isinstance(method, str) or method not in known:
        raise ValueError(f"method must be one of {sorted(known)} or an OnlineRule, got {method!r}")
    return known[method]()


def check_window(window: int | None) -> int | None:
    """Return ``window`` as None or a positive int."""
    return None if window is None else check_positive_int(window, "window")


def adaptive_thresholds(
    scores: Any,
    alpha: float = 0.1,
    method: str | OnlineRule = "aci",
    cal_scores: Any = None,
    window: int | None = None,
) -> AdaptiveTrace:
    """Return the thresholds of an online method along a stream of scores.

    Each threshold is set before its score is seen; no exchangeability is assumed, and the scores
    may be of any kind, of sets as well as of intervals.

    Parameters
    ----------
    scores : array of shape (t,)
        Nonconformity scores of the true values, in order of time; higher = stranger.
    alpha : float in (0, 1)
        Long-run error rate aimed at.
    method : {"aci", "agaci", "dtaci", "pid"} or OnlineRule
        How the threshold moves.
    cal_scores : array of shape (n,) or None
        Scores before the stream, to start from.
    window : int or None
        Past scores whose quantile is taken; None: all of them.

    Returns
    -------
    AdaptiveTrace

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(size=1000)
    >>> growing = np.abs(noise * np.linspace(1, 5, 1000))
    >>> trace = adaptive_thresholds(growing, alpha=0.1)
    >>> bool(abs(trace.missed.mean() - 0.1) < 0.02)
    True
    """
    before = np.zeros(0) if cal_scores is None else _stream(cal_scores, "cal_scores")
    rule, exact = as_online_rule(method), exact_alpha(alpha)
    run = Run(rule, exact, before.tolist(), check_window(window))
    return run.observe(_stream(scores, "scores").tolist()).trace()


def _stream(values: Any, name: str) -> np.ndarray:
    array = np.asarray(to_numpy(values), dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be 1-d, in order of time, got shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(
            f"{name} must be finite, got {array[bad[0]]} at index {bad[0]}; drop these steps"
        )
    return array
