"""Fairness: whether groups get the same rates of decisions and of errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trustml.auditing._case import Case
from trustml.auditing._check import Check, Figure, Outcome, Skip, Table
from trustml.auditing._settings import positive
from trustml.auditing._verdict import Finding, Verdict, at_most, within
from trustml.core.validation import to_numpy
from trustml.evidence import Interval

_BINARY = ("selection_rate", "true_positive_rate", "false_positive_rate", "accuracy")
_CLASSES = ("accuracy",)
_ROWS = 6
_NUMBERS = ("mean_prediction", "mean_error", "mean_absolute_error")


@dataclass(frozen=True)
class Fairness(Check):
    """Differences of group metrics with their intervals.

    Parameters
    ----------
    max_difference : float
        Largest difference between groups that is acceptable: of rates for a classifier, in
        standard deviations of the target for a regressor.
    metrics : tuple of str
        Which metrics are judged; empty: true and false positive rate for two classes, accuracy
        for more, mean error for numbers. The others are shown.
    positive : str, int or None
        The favourable class; None takes the second one.
    """

    max_difference: float = 0.2
    metrics: tuple[str, ...] = ()
    positive: Any = None

    name: ClassVar[str] = "fairness"
    title: ClassVar[str] = "Fairness"
    question: ClassVar[str] = "Do groups get the same rates of decisions and of errors?"
    why: ClassVar[str] = (
        "A model that errs more often for one group harms that group, whether or not it saw the "
        "sensitive feature. In lending, hiring and care such gaps are unlawful in many places."
    )
    fix: ClassVar[str] = (
        "See which training rows widen the gap and remove their effect without a refit "
        "(fairness.FairInfluence(...).fit(...).mitigate()), reweigh or gather rows of the group "
        "that loses, or set thresholds per group where that is lawful."
    )

    def __post_init__(self) -> None:
        positive(self.max_difference, "max_difference")
        if isinstance(self.metrics, str) or not all(isinstance(m, str) for m in self.metrics):
            raise ValueError(f"metrics must be a list of names, got {self.metrics!r}")

    def run(self, case: Case) -> Outcome:
        """Judge the interval of each metric's difference, for each sensitive feature."""
        if not case.groups:
            raise Skip("No sensitive_features were given, so there are no groups to compare.")
        shown_metrics, judged, data = self._plan(case)
        several = {
            name: labels for name, labels in case.groups.items() if len(np.unique(labels)) > 1
        }
        if not several:
            raise Skip("Each sensitive feature has one group only in the test rows.")
        level = case.bonferroni(len(several) * len(judged))
        findings: list[Finding] = []
        figures: list[Figure] = []
        for feature, labels in several.items():
            found, figure = self._compare(case, feature, labels, shown_metrics, judged, data, level)
            findings.extend(found)
            figures.append(figure)
        binary = data[2] is not None
        traced = {
            name: labels
            for name, labels in several.items()
            if binary and _both_classes(case, labels)
        }
        return Outcome(
            summary=self._sentence(findings),
            findings=tuple(findings),
            figures=tuple(figures),
            tables=_responsible_rows(case, traced, data[2]),
            notes=(
                *(
                    f"Sensitive feature {name!r} has one group only and is left out."
                    for name in case.groups
                    if name not in several
                ),
                *(
                    f"A group of {name!r} has rows of one class only, so its gap is not traced "
                    "to training rows."
                    for name in several
                    if binary and name not in traced
                ),
            ),
            parameters={"metrics": list(judged)} | ({"positive": data[2]} if data[2] else {}),
        )

    def _plan(
        self, case: Case
    ) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Any, Any, str | None]]:
        """Return the metrics shown, the metrics judged, and (y_true, y_pred, positive class)."""
        if case.model.task == "regression":
            spread = float(np.std(case.y.astype(np.float64))) or 1.0
            data = (case.y / spread, case.predictions / spread, None)
            return (*_known(self.metrics, _NUMBERS), (self.metrics or ("mean_error",)), data)
        if len(case.class_names) != 2:
            shown_metrics = _known(self.metrics, _CLASSES)[0]
            found = case.probabilities.argmax(1)
            return shown_metrics, (self.metrics or _CLASSES), (case.label_index, found, None)
        names = case.class_names
        wanted = names[1] if self.positive is None else str(self.positive)
        if wanted not in names:
            raise ValueError(f"positive must be one of the classes {names}, got {self.positive!r}")
        column = names.index(wanted)
        truth = (case.label_index == column).astype(int)
        chosen = (case.probabilities.argmax(1) == column).astype(int)
        shown_metrics = _known(self.metrics, _BINARY)[0]
        judged = self.metrics or ("true_positive_rate", "false_positive_rate")
        return shown_metrics, judged, (truth, chosen, wanted)

    def _compare(
        self,
        case: Case,
        feature: str,
        labels: NDArray[Any],
        shown_metrics: tuple[str, ...],
        judged: tuple[str, ...],
        data: tuple[Any, Any, str | None],
        level: float,
    ) -> tuple[list[Finding], Figure]:
        from trustml.fairness import group_metrics

        table = group_metrics(
            data[0],
            data[1],
            sensitive_features={feature: labels},
            metrics=list(shown_metrics),
            random_state=case.random_state,
        )
        contrasts = table.ci(level)
        difference = np.asarray(table.difference())
        signed = len(table.groups) == 2
        findings = []
        for name in judged:
            j = shown_metrics.index(name)
            low, high = (float(end) for end in contrasts[j])
            estimate = float(difference[j])
            if signed:
                estimate = _signed(table, j)
            interval = Interval(estimate, low, high, level, "difference of group metrics")
            title = f"{name.replace('_', ' ')}, {feature}: {table.direction}"
            judge = within if signed else at_most
            findings.append(judge(title, interval, self.max_difference, len(labels)))
        ends = table.ci(case.level, of="by_group")
        figure = Figure(
            "group_metrics",
            {
                "metrics": [name.replace("_", " ") for name in shown_metrics],
                "groups": [str(group) for group in table.groups],
                "values": np.asarray(table.by_group),
                "low": ends[..., 0],
                "high": ends[..., 1],
            },
            f"Metrics by {feature}",
            "Each group's metric with its own interval. Whether two groups differ is judged on "
            "the interval of the difference in the table, not on the overlap of these.",
        )
        return findings, figure

    def _sentence(self, findings: list[Finding]) -> str:
        worst = max(findings, key=lambda f: np.nan_to_num(max(abs(f.low), abs(f.high)), nan=0.0))
        value = f"{worst.name} {worst.estimate:+.3f} [{worst.low:+.3f}, {worst.high:+.3f}]"
        failed = [f for f in findings if f.verdict is Verdict.FAIL]
        if failed:
            first = failed[0]
            more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
            return (
                f"Groups differ by more than {self.max_difference:g}: {first.name} "
                f"{first.estimate:+.3f} [{first.low:+.3f}, {first.high:+.3f}]{more}."
            )
        if any(f.verdict is Verdict.NOT_ENOUGH_DATA for f in findings):
            return f"The data cannot rule out a gap above {self.max_difference:g}: {value}."
        return f"No gap exceeds {self.max_difference:g}; the widest interval: {value}."


def _known(wanted: tuple[str, ...], usual: tuple[str, ...]) -> tuple[tuple[str, ...]]:
    return ((*usual, *(name for name in wanted if name not in usual)),)


def _signed(table: Any, j: int) -> float:
    """Second minus first group, as the interval is signed."""
    values = np.asarray(table.by_group)[:, j]
    return float(values[1] - values[0])


def _both_classes(case: Case, labels: NDArray[Any]) -> bool:
    """Whether every group has rows of both classes, so that its error rates exist."""
    return all(len(np.unique(case.label_index[labels == g])) == 2 for g in np.unique(labels))


def _responsible_rows(
    case: Case, groups: dict[str, NDArray[Any]], favourable: str | None
) -> tuple[Table, ...]:
    """List the training rows whose absence would shrink each gap most, by influence."""
    if case.no_influence is not None or favourable is None:
        return ()
    from trustml.fairness import FairInfluence

    classes = np.asarray(case.model.classes_)
    tables = []
    for feature, labels in groups.items():
        fair = FairInfluence(
            case.model,
            criterion="equalized_odds",
            pos_label=classes[case.class_names.index(favourable)],
            influence=case.influence,
        ).fit(case.X, classes[case.label_index], sensitive_features=labels)
        effects = np.asarray(fair.row_effects_)
        worst = np.argsort(effects, kind="stable")[:_ROWS]
        given = to_numpy(_train_targets(case)).astype(int)
        rows = tuple(
            (str(int(i)), case.class_names[given[i]], float(effects[i]))
            for i in worst
            if effects[i] < 0
        )
        tables.append(
            Table(
                f"Training rows that widen the gap by {feature} most",
                ("training row", "label", "change of the gap if left out"),
                rows,
                f"Predicted without refits. Equalised-odds gap of mean probabilities between "
                f"groups of {feature} in the test rows: {fair.gap_:.3f}.",
            )
        )
    return tuple(table for table in tables if table.rows)


def _train_targets(case: Case) -> Any:
    train = case.train
    return [] if train is None else train.targets
