"""Out of distribution: whether the detector sees strange rows, without crying wolf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trustml.auditing._case import Case, Split
from trustml.auditing._check import Check, Figure, Outcome, Skip
from trustml.auditing._corruptions import stand_ins
from trustml.auditing._settings import open_share, share, whole
from trustml.auditing._verdict import Finding, Verdict, at_least
from trustml.core.validation import take_rows, to_numpy
from trustml.evidence import auroc_interval, beta_binomial_band, clopper_pearson

_FEWEST = 40


@dataclass(frozen=True)
class OutOfDistribution(Check):
    """The default detector: AUROC on strange rows, false alarms on ordinary ones, drift.

    Parameters
    ----------
    min_auroc : float in [0, 1]
        Smallest area under the ROC curve that is acceptable, for each set.
    alpha : float in (0, 1)
        False-alarm rate that the detector is calibrated to.
    tolerance : float in (0, 1)
        Excess of false alarms that the test must be able to see.
    max_rows : int
        Rows of each set that are scored.
    """

    min_auroc: float = 0.8
    alpha: float = 0.05
    tolerance: float = 0.1
    max_rows: int = 1000

    name: ClassVar[str] = "ood"
    title: ClassVar[str] = "Out of distribution"
    question: ClassVar[str] = (
        "Does the detector see rows unlike the training data, without crying wolf?"
    )
    why: ClassVar[str] = (
        "A model answers every input, also one from another world, and often with confidence. A "
        "detector at the door turns silent failure into an alarm; false alarms wear it out."
    )
    fix: ClassVar[str] = (
        "Compare detectors with ood.Suite, fit on more of the training data, or use features of "
        "another layer. If false alarms exceed their law or the drift test rejects, test rows are "
        "not drawn as the calibration rows were: recalibrate, and look which feature moved "
        "(ood.drift_test(...).by_feature)."
    )

    def __post_init__(self) -> None:
        share(self.min_auroc, "min_auroc")
        open_share(self.alpha, "alpha")
        open_share(self.tolerance, "tolerance")
        whole(self.max_rows, "max_rows", least=_FEWEST)

    def run(self, case: Case) -> Outcome:
        """Judge AUROCs by intervals, false alarms by their law, drift by its test."""
        split = case.split
        if min(len(split.y), len(split.y_cal)) < _FEWEST:
            raise Skip(
                f"{len(split.y_cal)} calibration and {len(split.y)} test rows are too few; at "
                f"least {_FEWEST} of each are needed."
            )
        detector, X_cal, learnt_from = _detector(case, split)
        detector.calibrate(X_cal)
        inside = to_numpy(detector.score(split.X))
        sets = _sets(case, split, self.max_rows)
        level = case.bonferroni(len(sets) + 2)
        scores = {name: to_numpy(detector.score(X)) for name, X in sets.items()}
        aurocs = [
            at_least(
                f"AUROC, {name}", auroc_interval(inside, found, level), self.min_auroc, len(found)
            )
            for name, found in scores.items()
        ]
        alarms = to_numpy(detector.alarm(split.X, alpha=self.alpha))
        false_alarms = self._false_alarms(alarms, len(X_cal), level)
        drift = _drift(case, split, level)
        detected = {
            name: float(to_numpy(detector.alarm(X, alpha=self.alpha)).mean())
            for name, X in sets.items()
        }
        notes = [split.note] if split.note else []
        if not case.ood:
            notes.append(
                "No out-of-distribution data were given: built-in corruptions of the test rows and "
                "a drift test stand in. Real strange rows may be harder to see; pass X_ood."
            )
        threshold = _threshold(to_numpy(detector.score(X_cal)), self.alpha)
        return Outcome(
            summary=self._sentence(aurocs, false_alarms, drift),
            findings=(*aurocs, false_alarms, drift),
            figures=(_histogram(inside, scores, threshold),),
            notes=tuple(notes),
            parameters={
                "detector": type(detector).__name__,
                "learnt from": learnt_from,
                "alarms raised": {name: round(rate, 3) for name, rate in detected.items()},
            },
        )

    def _false_alarms(self, alarms: NDArray[np.bool_], n_cal: int, level: float) -> Finding:
        n, k = len(alarms), int(alarms.sum())
        band = beta_binomial_band(n_cal, n, self.alpha, level)
        high = float(1 - band[0])
        exact = clopper_pearson(k, n, level)
        if exact.estimate > high:
            verdict = Verdict.FAIL
        elif high > self.alpha + self.tolerance:
            verdict = Verdict.NOT_ENOUGH_DATA
        else:
            verdict = Verdict.PASS
        return Finding(
            name=f"false alarms at alpha = {self.alpha:g}",
            estimate=exact.estimate,
            low=exact.low,
            high=exact.high,
            level=level,
            method="Beta-Binomial law of conformal p-values; interval Clopper-Pearson",
            n=n,
            requirement=f"not above {high:.3f}, the law's limit",
            threshold=(high,),
            verdict=verdict,
        )

    def _sentence(self, aurocs: list[Finding], false_alarms: Finding, drift: Finding) -> str:
        worst = min(aurocs, key=lambda f: f.low)
        where = worst.name.removeprefix("AUROC, ")
        value = f"{worst.estimate:.3f} [{worst.low:.3f}, {worst.high:.3f}]"
        blind = [f.name.removeprefix("AUROC, ") for f in aurocs if f.verdict is Verdict.FAIL]
        open_ = [f for f in aurocs if f.verdict is Verdict.NOT_ENOUGH_DATA]
        parts = []
        if blind:
            parts.append(f"The detector misses {', '.join(blind)}: AUROC below {self.min_auroc:g}.")
        elif open_:
            parts.append(f"For {where} the AUROC {value} may be below {self.min_auroc:g}.")
        else:
            parts.append(f"Every strange set is told apart; the hardest is {where}, AUROC {value}.")
        rate = f"{false_alarms.estimate:.3f}"
        if false_alarms.verdict is Verdict.FAIL:
            parts.append(f"Too many false alarms: {rate}.")
        else:
            parts.append(f"False alarms: {rate}.")
        if drift.verdict is Verdict.FAIL:
            parts.append("The test rows have drifted from the calibration rows.")
        return " ".join(parts)


def _detector(case: Case, split: Split) -> tuple[Any, Any, str]:
    """Return a fitted detector, calibration rows that it did not see, and what it learnt from."""
    from trustml.ood import Fused

    detector = Fused(case.model, random_state=case.random_state)
    train = case.train
    if train is not None:
        labels = train.targets
        y = None
        if case.model.classes_ is not None and labels is not None:
            y = np.asarray(case.model.classes_)[to_numpy(labels).astype(int)]
        return detector.fit(train, y), split.X_cal, f"{len(train)} training rows"
    half = len(split.y_cal) // 2
    learn, rest = np.arange(half), np.arange(half, len(split.y_cal))
    detector.fit(take_rows(split.X_cal, learn), split.y_cal[learn])
    return detector, take_rows(split.X_cal, rest), f"{half} calibration rows, for want of train="


def _sets(case: Case, split: Split, limit: int) -> dict[str, Any]:
    if case.ood:
        return {name: take_rows(X, np.arange(min(limit, len(X)))) for name, X in case.ood.items()}
    return stand_ins(take_rows(split.X, np.arange(min(limit, len(split.y)))), case.random_state)


def _drift(case: Case, split: Split, level: float) -> Finding:
    from trustml.ood import drift_test

    test = drift_test(case.model, split.X_cal, split.X, random_state=case.random_state)
    verdict = Verdict.FAIL if test.p_value < 1 - level else Verdict.PASS
    return Finding(
        name=f"drift from calibration to test rows, effect size ({test.on})",
        estimate=float(test.effect_size),
        low=float("nan"),
        high=float("nan"),
        level=level,
        method=test.method,
        n=int(sum(test.n)),
        requirement=f"p-value at least {1 - level:.3g}",
        p_value=float(test.p_value),
        verdict=verdict,
    )


def _threshold(calibration: NDArray[np.float64], alpha: float) -> float:
    """Return the score from which an alarm is raised, for the figure."""
    from trustml.evidence import quantile

    return float(quantile(calibration, alpha))


def _histogram(
    inside: NDArray[np.float64], scores: dict[str, NDArray[np.float64]], threshold: float
) -> Figure:
    return Figure(
        "score_histogram",
        {"scores": {"test rows": inside, **scores}, "threshold": threshold},
        "Out-of-distribution scores",
        "The further a set lies to the right of the test rows, the easier it is to tell apart; "
        "scores beyond the alarm line raise an alarm.",
    )
