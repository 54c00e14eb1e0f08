"""Coverage: whether conformal sets hold the truth as often as they promise, in every group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trustml.auditing._case import Case, Split
from trustml.auditing._check import Check, Figure, Outcome, Skip
from trustml.auditing._settings import open_share
from trustml.auditing._verdict import Finding, Verdict, at_least, one, shown
from trustml.core.validation import to_numpy
from trustml.evidence import beta_binomial_band, bootstrap, clopper_pearson

_FEWEST = 20


@dataclass(frozen=True)
class Coverage(Check):
    """Split conformal coverage: overall against its law, and in each group.

    Parameters
    ----------
    alpha : float in (0, 1)
        Allowed error rate of the sets: they promise coverage ``1 - alpha``.
    tolerance : float in (0, 1)
        How far the coverage of a group may fall below ``1 - alpha``, and the shortfall that the
        overall test must be able to see.
    """

    alpha: float = 0.1
    tolerance: float = 0.1

    name: ClassVar[str] = "coverage"
    title: ClassVar[str] = "Coverage"
    question: ClassVar[str] = (
        "Do conformal prediction sets hold the truth as often as they promise, in every group?"
    )
    why: ClassVar[str] = (
        "Prediction sets promise coverage if calibration and test rows are exchangeable. Coverage "
        "below its law means that they are not: drift, leakage, or rows in file order. A group "
        "with low coverage pays for the average of the others."
    )
    fix: ClassVar[str] = (
        "Shuffle before splitting and calibrate on rows drawn as those in use. For groups, "
        "calibrate each one: SplitClassifier(condition=...). If the verdict lacks data, bring "
        "more test rows of the group."
    )

    def __post_init__(self) -> None:
        open_share(self.alpha, "alpha")
        open_share(self.tolerance, "tolerance")
        if self.alpha + self.tolerance >= 1:
            raise ValueError(
                f"alpha + tolerance must be below 1, got {self.alpha} + {self.tolerance}"
            )

    def run(self, case: Case) -> Outcome:
        """Judge the coverage overall by its Beta-Binomial law, in groups by exact intervals."""
        split = case.split
        if min(len(split.y), len(split.y_cal)) < _FEWEST:
            raise Skip(
                f"{len(split.y_cal)} calibration and {len(split.y)} test rows are too few; at "
                f"least {_FEWEST} of each are needed."
            )
        covered, size, unit = _cover(case, split, self.alpha)
        members = _members(case, split)
        level = case.bonferroni(1 + len(members))
        overall = self._overall(covered, len(split.y_cal), level)
        floor = 1 - self.alpha - self.tolerance
        by_group = [
            at_least(
                f"coverage, {name}",
                clopper_pearson(int(covered[rows].sum()), int(rows.sum()), level),
                round(floor, 9),
                int(rows.sum()),
            )
            for name, rows in members.items()
        ]
        mean_size = bootstrap(
            np.mean, size, level=case.level, method="percentile", random_state=case.random_state
        )
        sizes = shown(f"mean {unit}", one(mean_size), len(size))
        classes = _by_class(case, split, covered, level)
        figure = self._figure(overall, [*by_group, *classes])
        return Outcome(
            summary=self._sentence(overall, by_group, sizes, unit),
            findings=(overall, *by_group, sizes),
            figures=(figure,),
            notes=(split.note,) if split.note else (),
            parameters={"calibration rows": len(split.y_cal), "judged rows": len(split.y)},
        )

    def _overall(self, covered: NDArray[np.bool_], n_cal: int, level: float) -> Finding:
        n, k = len(covered), int(covered.sum())
        low, high = (float(end) for end in beta_binomial_band(n_cal, n, self.alpha, level))
        exact = clopper_pearson(k, n, level)
        if exact.estimate < low:
            verdict = Verdict.FAIL
        elif low < 1 - self.alpha - self.tolerance:
            verdict = Verdict.NOT_ENOUGH_DATA
        else:
            verdict = Verdict.PASS
        return Finding(
            name="coverage, all rows",
            estimate=exact.estimate,
            low=exact.low,
            high=exact.high,
            level=level,
            method="Beta-Binomial law of split conformal; interval Clopper-Pearson",
            n=n,
            requirement=f"not below {low:.3f}, where valid sets fall",
            threshold=(low, high),
            verdict=verdict,
        )

    def _figure(self, overall: Finding, groups: list[Finding]) -> Figure:
        lines = [overall, *groups]
        return Figure(
            "coverage_by_group",
            {
                "groups": [line.name.removeprefix("coverage, ") for line in lines],
                "coverage": [line.estimate for line in lines],
                "low": [line.low for line in lines],
                "high": [line.high for line in lines],
                "target": 1 - self.alpha,
                "band": overall.threshold,
            },
            "Coverage by group",
            "Exact intervals. The band is where the overall coverage of valid sets falls, given "
            "the sizes of the calibration and test sets. Classes are shown, not judged: split "
            "conformal does not promise coverage for each of them.",
        )

    def _sentence(self, overall: Finding, groups: list[Finding], sizes: Finding, unit: str) -> str:
        said = (
            f"Sets at alpha = {self.alpha:g} hold the truth for {overall.estimate:.3f} of the rows"
        )
        said += f", mean {unit} {sizes.estimate:.3g}"
        if overall.verdict is Verdict.FAIL:
            return f"{said}: fewer than exchangeable rows would show."
        if overall.verdict is Verdict.NOT_ENOUGH_DATA:
            return f"{said}; with so few rows that says little."
        bad = [g.name.removeprefix("coverage, ") for g in groups if g.verdict is Verdict.FAIL]
        if bad:
            return f"{said}, but too few in {', '.join(bad)}."
        open_ = [g for g in groups if g.verdict is Verdict.NOT_ENOUGH_DATA]
        if open_:
            few = f"{len(open_)} of {len(groups)} groups have too few rows to tell"
            return f"{said}, as promised; {few}."
        return f"{said}, as promised{', and in every group' if groups else ''}."


def _cover(
    case: Case, split: Split, alpha: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64], str]:
    """Return which rows are covered, how large their sets are, and the word for size."""
    from trustml.conformal import SplitClassifier, SplitRegressor

    if case.model.task == "regression":
        regressor = SplitRegressor(case.model).fit(split.X_cal, split.y_cal)
        ends = to_numpy(regressor.predict_interval(split.X, alpha=alpha))
        inside = (ends[:, 0] <= split.y) & (split.y <= ends[:, 1])
        return inside, ends[:, 1] - ends[:, 0], "interval width"
    classifier = SplitClassifier(case.model, score="lac", random_state=case.random_state)
    sets = to_numpy(classifier.fit(split.X_cal, split.y_cal).predict_set(split.X, alpha=alpha))
    columns = case.label_index[split.rows]
    return sets[np.arange(len(sets)), columns], sets.sum(1).astype(np.float64), "set size"


def _members(case: Case, split: Split) -> dict[str, NDArray[np.bool_]]:
    return {
        f"{feature} = {group}": labels[split.rows] == group
        for feature, labels in case.groups.items()
        for group in np.unique(labels[split.rows])
    }


def _by_class(case: Case, split: Split, covered: NDArray[np.bool_], level: float) -> list[Finding]:
    if case.model.task != "classification":
        return []
    index = case.label_index[split.rows]
    return [
        shown(
            f"coverage, class {case.class_names[c]}",
            clopper_pearson(int(covered[index == c].sum()), int((index == c).sum()), level),
            int((index == c).sum()),
        )
        for c in np.unique(index)
    ]
