"""Calibration: whether probabilities come true as often as they say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from trustml.auditing._case import Case
from trustml.auditing._check import Check, Figure, Outcome, Skip
from trustml.auditing._settings import share, whole
from trustml.auditing._verdict import Finding, Verdict, at_most, one, shown
from trustml.evidence import Interval, TestResult, bootstrap

if TYPE_CHECKING:
    from trustml.conformal.metrics import Reliability

_FEWEST = 50


@dataclass(frozen=True)
class Calibration(Check):
    """Expected calibration error with its interval, and a test of perfect calibration.

    Parameters
    ----------
    max_ece : float in [0, 1]
        Largest expected calibration error that is acceptable.
    n_bins : int
        Bins of equal mass; fewer where a bin would hold less than ten rows.
    """

    max_ece: float = 0.1
    n_bins: int = 10

    name: ClassVar[str] = "calibration"
    title: ClassVar[str] = "Calibration"
    question: ClassVar[str] = "Do predictions made with 80 % confidence come true 80 % of the time?"
    why: ClassVar[str] = (
        "Whoever weighs risk against cost reads probabilities as frequencies. An over-confident "
        "model turns rare disasters into acceptable risks; an under-confident one sends too many "
        "cases to people."
    )
    fix: ClassVar[str] = (
        "Rescale the probabilities on held-out rows (temperature scaling, Venn-Abers), train with "
        "label smoothing or more weight decay, or act on conformal prediction sets instead of on "
        "probabilities."
    )

    def __post_init__(self) -> None:
        share(self.max_ece, "max_ece")
        whole(self.n_bins, "n_bins", least=2)

    def run(self, case: Case) -> Outcome:
        """Judge the interval of the calibration error."""
        from trustml.conformal import metrics

        if case.model.task != "classification":
            raise Skip(f"Probabilities are needed, and this model does {case.model.task}.")
        if case.n < _FEWEST:
            raise Skip(f"{case.n} test rows are too few to bin; at least {_FEWEST} are needed.")
        n_bins = max(2, min(self.n_bins, case.n // 10))
        p, y = case.probabilities, case.label_index
        test = metrics.calibration_test(y, p, n_bins, random_state=case.random_state)
        interval = ece_interval(y, p, n_bins, test, case.level, case.random_state)
        ece = at_most("expected calibration error", interval, self.max_ece, case.n)
        excess = bootstrap(
            lambda top, right: top.mean() - right.mean(),
            p.max(1),
            case.correct.astype(np.float64),
            level=case.level,
            method="percentile",
            random_state=case.random_state,
        )
        perfect = Finding(
            name="the same, beyond what a perfect model would show",
            estimate=float(test.effect_size or 0.0),
            low=math.nan,
            high=math.nan,
            level=case.level,
            method=f"{test.method}: labels drawn from the probabilities",
            n=case.n,
            p_value=float(test.p_value),
        )
        return Outcome(
            summary=_sentence(ece, self.max_ece),
            findings=(ece, perfect, shown("mean confidence minus accuracy", one(excess), case.n)),
            figures=(_diagram(metrics.reliability(y, p, n_bins, "quantile", level=case.level)),),
            parameters={"bins": n_bins},
        )


def ece_interval(
    y: NDArray[np.intp],
    probabilities: NDArray[np.float64],
    n_bins: int,
    test: TestResult,
    level: float,
    random_state: int,
) -> Interval:
    """Return the calibration error with an interval that is safe on both sides.

    The estimate is too large, at most by what a perfectly calibrated model would show. So the
    upper end adds the bootstrap's half-width to the estimate, and the lower end takes it, and
    that largest bias, away.

    Parameters
    ----------
    y : int array of shape (n,)
        Columns of the true labels.
    probabilities : array of shape (n, c)
        Predicted probabilities.
    n_bins : int
        Bins of equal mass.
    test : TestResult
        From ``conformal.metrics.calibration_test`` with the same bins.
    level : float in (0, 1)
        Confidence level, reached or exceeded.
    random_state : int
        Seed of the bootstrap.

    Returns
    -------
    Interval
        In [0, 1].
    """
    from trustml.conformal import metrics

    drawn = one(
        bootstrap(
            lambda labels, p: metrics.ece(labels, p, n_bins, strategy="quantile"),
            y,
            probabilities,
            level=level,
            n_resamples=500,
            method="percentile",
            random_state=random_state,
        )
    )
    half = (drawn.high - drawn.low) / 2
    return Interval(
        float(test.statistic),
        max(0.0, float(test.effect_size or 0.0) - half),
        min(1.0, float(test.statistic) + half),
        level,
        "bootstrap half-width; the estimator's largest bias taken off below",
    )


def _sentence(finding: Finding, limit: float) -> str:
    value = f"{finding.estimate:.3f} [{finding.low:.3f}, {finding.high:.3f}]"
    if finding.verdict is Verdict.PASS:
        return f"The expected calibration error is {value}, within the limit of {limit:g}."
    if finding.verdict is Verdict.FAIL:
        return f"The expected calibration error is {value}, above the limit of {limit:g}."
    return f"The expected calibration error is {value}: it may be on either side of {limit:g}."


def _diagram(bins: Reliability) -> Figure:
    return Figure(
        "reliability_diagram",
        {
            "confidence": bins.confidence,
            "accuracy": bins.accuracy,
            "low": bins.accuracy_low,
            "high": bins.accuracy_high,
            "count": bins.n,
            "predicted": "confidence in the predicted class",
            "observed": "share that was right",
        },
        "Reliability diagram",
        "Each point is a bin of equal mass, with an exact interval. Below the diagonal the model "
        "is over-confident, above it under-confident.",
    )
