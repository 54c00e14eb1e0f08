"""Any metric, group by group, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from trustml.core.alignment import check_aligned
from trustml.core.random import RandomState, numpy_generator
from trustml.core.results import Result
from trustml.core.validation import check_choice
from trustml.fairness._confidence import Sample, intervals, warn_if_undefined, warn_if_unknown
from trustml.fairness._groups import Groups, as_groups
from trustml.fairness._in_words import contrast, parity_in_words
from trustml.fairness._metric_names import METRIC_NAMES, Chosen, choose
from trustml.fairness._named_array import NamedArray
from trustml.fairness._rates import Decisions, as_decisions
from trustml.fairness._row_metrics import as_score
from trustml.fairness._worst import Worst, worst_groups
from trustml.fairness.metrics import largest_difference, smallest_ratio

__all__ = ["METRIC_NAMES", "GroupMetrics", "assemble", "group_metrics"]

_FEW = 7  # groups that are printed with all that stands below them
_METHODS = ("between_groups", "to_overall")
_CONTRASTS = ("difference", "ratio", "by_group", "overall", "signed_difference")


@dataclass(frozen=True, eq=False, repr=False)
class GroupMetrics(Result):
    """Metrics of each group; arrays answer to the names of metrics and groups.

    ``by_group["f"]``, ``by_group["accuracy"]``, ``by_group["f", "accuracy"]``; intersections are
    tuples, ``by_group["f", "old"]``. Groups that are numbers go by the number, never by position.

    Attributes
    ----------
    metrics : tuple of str
        Names of the m metrics.
    groups : tuple
        The k groups, sorted; tuples of values where several sensitive columns were given.
    sensitive_names : tuple of str
        The sensitive columns.
    counts : numpy.ndarray of shape (k,)
        Rows of each group.
    overall : array of shape (m,)
        Metrics over all rows, in the metric's unit; rates in [0, 1].
    by_group : array of shape (k, m)
        NaN where a metric is undefined in a group.
    privileged : object or None
        The group that signed intervals are relative to.
    random_state : int, Generator or None
        Seed of bootstrap intervals.
    """

    metrics: tuple[str, ...]
    groups: tuple[Any, ...]
    sensitive_names: tuple[str, ...]
    counts: np.ndarray
    overall: np.ndarray
    by_group: np.ndarray
    privileged: Any
    random_state: RandomState
    _sample: Sample = field(repr=False)
    _reference: int = field(repr=False)
    _decisions: Decisions | None = field(default=None, repr=False)

    def difference(self, method: str = "between_groups") -> np.ndarray:
        """Return the largest difference of each metric between groups, unsigned.

        Parameters
        ----------
        method : {"between_groups", "to_overall"}
            Largest minus smallest group, or the largest distance of a group to ``overall``.

        Returns
        -------
        numpy.ndarray of shape (m,)
            At least 0; NaN if fewer than two groups have the metric.
        """
        return self._aggregate(largest_difference, method)

    def ratio(self, method: str = "between_groups") -> np.ndarray:
        """Return the smallest ratio of each metric between groups, at most 1 for rates.

        Parameters
        ----------
        method : {"between_groups", "to_overall"}
            Smallest over largest group, or the smallest ratio of a group with ``overall``.

        Returns
        -------
        numpy.ndarray of shape (m,)
            NaN if fewer than two groups have the metric, it is 0 in all, or it is signed: what may
            be negative has no ratio ("mean_error", "calibration_in_the_large", or any that is
            below 0 in a group).
        """
        ratios = self._aggregate(smallest_ratio, method)
        signed = [self._sample.signed(name) for name in self.metrics]
        return NamedArray(np.where(signed, np.nan, ratios), self.metrics)

    def signed_difference(self) -> NamedArray:
        """Return each other group minus the privileged one, metric by metric.

        With ``privileged=None`` the first of the sorted groups takes its place.

        Returns
        -------
        NamedArray of shape (k - 1, m)
            In the metric's unit; one row a group, answering to its name, and ``direction`` says
            the sign in words. NaN where a metric is undefined in either group.
        """
        values = np.asarray(self.by_group)
        reference = self._reference
        others = self._others
        minus = f"{others[0] if len(others) == 1 else 'each group'} minus {self.groups[reference]}"
        apart = np.delete(values - values[reference], reference, axis=0)
        return NamedArray(apart, self.metrics, others, direction=minus)

    def worst(self, higher_is_better: Mapping[str, bool] | None = None) -> dict[str, Worst]:
        """Return the group that fares worst by each metric.

        A positive decision is read as a favour, and an error as a harm to whom it is made on: the
        worst group is the one with the lowest selection or true positive rate, or the highest
        false positive rate. The last of these is a harm where a positive decision is a burden (an
        arrest) and none where it is a favour (a loan): ``harm`` says what was taken for whose
        harm, and ``higher_is_better={"false_positive_rate": True}`` reads it the other way.

        Parameters
        ----------
        higher_is_better : dict of str to bool or None
            Overrides the reading of metrics by name, for instance where being selected is no
            favour. A callable, or a metric under a name of your own, that is not named here is
            judged by its distance to ``overall``.

        Returns
        -------
        dict of str to Worst
            ``worst()["accuracy"].group`` is a group, beside its ``value``, that ``overall``, and
            the ``reading`` and ``harm`` that made it the worst; None where groups do not differ.
            A ``ValueError`` says which name is no metric.
        """
        by_group, overall = np.asarray(self.by_group), np.asarray(self.overall)
        return worst_groups(self.metrics, self.groups, by_group, overall, higher_is_better)

    def in_words(self) -> tuple[str, ...]:
        """Return which group is below which, as sentences.

        Returns
        -------
        tuple of str
            For decisions first demographic parity and equalized odds, which are only shown
            together, whichever metrics were asked for; then each metric.
        """
        sentences = [*self._parity()]
        for name, values in zip(self.metrics, np.asarray(self.by_group).T, strict=True):
            words = name.replace("_", " ")
            if np.isfinite(values).any():
                sentences.append(contrast(words, values, self.groups))
            else:
                sentences.append(f"{words} undefined in every group")
        return tuple(sentences)

    def ci(self, level: float = 0.95, of: str = "difference") -> np.ndarray:
        """Return confidence intervals; the fairness of the model is in here, not in the points.

        Rates have exact (Clopper-Pearson) intervals in a group, Newcombe's for a difference and
        MOVER-R for a ratio. Means of rows with a known range (scores that are probabilities, sizes
        of sets) have Gaffke's, which reckons with the ends of the range that no row has shown, and
        log losses too, whose largest is what the surest score seen would cost; areas under ROC
        curves have Newcombe's score interval. Nothing is drawn for these. Other metrics have the
        BCa bootstrap, drawn within groups, with nothing to say (NaN) of a group of fewer than 10
        rows, or whose rows are all alike.

        Parameters
        ----------
        level : float in (0, 1)
            Confidence level, of each metric by itself.
        of : {"difference", "ratio", "by_group", "overall", "signed_difference"}
            With two groups, "difference" and "ratio" are signed: see ``direction``. With more
            they are those of ``difference()`` and ``ratio()``, from all pairs of groups held
            simultaneously, and contain parity when no pair of groups differs visibly.
            "signed_difference" is each group minus the privileged one, as
            ``signed_difference()``, held simultaneously over the groups (Bonferroni).

        Returns
        -------
        numpy.ndarray of shape (m, 2), or (k, m, 2) for "by_group", (k - 1, m, 2) for \
"signed_difference"
            Lower and upper ends, ``ci()["selection_rate"]`` those of a metric; NaN where it is
            undefined, and, with a ``SmallGroupWarning``, where the rows do not tell.

        References
        ----------
        Newcombe (1998), Interval estimation for the difference between independent proportions.
        Gaffke (2005), Three test statistics for a nonparametric one-sided hypothesis on the mean
        of a nonnegative variable.
        Newcombe (2006), Confidence intervals for an effect size measure based on the Mann-Whitney
        statistic, part 2.
        """
        check_choice(of, "of", _CONTRASTS)
        known = {
            "difference": self.difference,
            "ratio": self.ratio,
            "by_group": lambda: self.by_group,
            "overall": lambda: self.overall,
            "signed_difference": self.signed_difference,
        }
        array = intervals(self._sample, self.metrics, of, self._reference, level, self._seed)
        warn_if_unknown(np.asarray(known[of]()), array, self.metrics)
        if array.ndim == 2:
            return NamedArray(array, ("low", "high"), self.metrics)
        rows = self.groups if of == "by_group" else self._others
        return NamedArray(array, ("low", "high"), rows, middle=self.metrics)

    @property
    def _others(self) -> tuple[Any, ...]:
        """The groups but the one that differences are signed against."""
        return tuple(g for j, g in enumerate(self.groups) if j != self._reference)

    @cached_property
    def _seed(self) -> int:
        """One for all intervals, so that asking twice gives the same answer."""
        if isinstance(self.random_state, int):
            return self.random_state
        return int(numpy_generator(self.random_state).integers(2**31))

    @property
    def direction(self) -> str:
        """Which way the intervals of ``ci`` are signed, in words."""
        if len(self.groups) > 2:
            return "largest minus smallest group (unsigned)"
        return f"{self.groups[1 - self._reference]} minus {self.groups[self._reference]}"

    def _aggregate(
        self, aggregate: Callable[[np.ndarray, float | None], float], method: str
    ) -> NamedArray:
        check_choice(method, "method", _METHODS)
        totals = self.overall if method == "to_overall" else [None] * len(self.metrics)
        columns = np.asarray(self.by_group).T
        values = [aggregate(c, t) for c, t in zip(columns, totals, strict=True)]
        return NamedArray(values, self.metrics)

    def _columns(self) -> dict[str, Any]:
        several = len(self.sensitive_names) > 1
        labels = [
            np.array([g[j] if several else g for g in self.groups], dtype=object)
            for j in range(len(self.sensitive_names))
        ]
        columns = [*labels, self.counts, *np.asarray(self.by_group).T]
        return dict(zip(self._headings(), columns, strict=True))

    def _headings(self) -> list[str]:
        """Return the names of the table's columns; a name that comes twice says what it is of."""
        own = [f"{name} (metric)" if name == "count" else name for name in self.metrics]
        taken = {"count", *own}
        groups = [f"{name} (group)" if name in taken else name for name in self.sensitive_names]
        return [*groups, "count", *own]

    def _parity(self) -> tuple[str, ...]:
        groups = Groups(self._sample.codes, self.groups, self.sensitive_names)
        return parity_in_words(self._decisions, groups)

    def _title(self) -> str:
        """Return what was compared; the intervals are one call away."""
        by = " x ".join(self.sensitive_names)
        first = f"GroupMetrics of {self.counts.sum()} rows by {by}; intervals: .ci()"
        return "\n".join([first, *self._parity()])

    def _shown(self) -> dict[str, Any]:
        """Add the rows that one looks for, below those of the groups or, of many, above."""
        below = {"overall": self.overall, "difference": self.difference(), "ratio": self.ratio()}
        columns, headings = self._columns(), self._headings()
        for j, name in enumerate(headings[: len(self.sensitive_names)]):
            blank = [""] * len(below) if j else list(below)
            columns[name] = np.array([*map(str, columns[name]), *blank])
        counts = [*map(str, self.counts), str(self.counts.sum()), "", ""]
        columns["count"] = np.array([c.rjust(max(map(len, counts))) for c in counts])
        for j, name in enumerate(headings[len(self.sensitive_names) + 1 :]):
            columns[name] = np.array([*columns[name], *(float(v[j]) for v in below.values())])
        up = len(below) if len(self.groups) > _FEW else 0
        return {name: np.roll(column, up) for name, column in columns.items()}


def group_metrics(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    y_score: Any = None,
    metrics: Any = None,
    privileged: Any = None,
    random_state: RandomState = None,
    pos_label: Any = None,
) -> GroupMetrics:
    """Return metrics of each group of rows, with their differences, ratios and intervals.

    Rows of the inputs are matched by position, never by the index of a frame or series.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and predicted labels or numbers.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership; several columns give their intersections.
    y_score : array of shape (n,) or (n, 2), or (n, c) for c classes, optional
        Probability of the favourable class, or one column for each of the sorted labels, as of
        ``predict_proba`` (a frame with columns called by the labels is read by these names): for
        "mean_score", "brier_score", "log_loss", "roc_auc",
        "calibration_in_the_large" (mean score minus the share of positives), "calibration_error"
        (expected, in ten bins of equal mass within the group), "debiased_calibration_error",
        "balance_positive_class" and "balance_negative_class" (mean score of that class).
    metrics : list of names and callables, dict name -> callable, or None
        A callable takes (y_true, y_pred) of some rows. None chooses by the labels: selection, true
        and false positive rate and accuracy for binary ones (with ``pos_label``, if they are no
        numbers), accuracy for classes, mean prediction and errors for numbers. An unknown
        name raises, and lists the known ones. A rate of more than two classes becomes one for each
        class against the rest, ``"true_positive_rate[cat]"``, and so does a metric of scores;
        "macro_true_positive_rate" is their mean and "worst_class_true_positive_rate" the worst.
    privileged : object, optional
        The group that signed intervals are relative to; None: the first of the sorted groups.
    random_state : int, Generator or None
        Seed of bootstrap intervals.
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Returns
    -------
    GroupMetrics
        Warns with ``SmallGroupWarning`` where a group is small or a metric undefined in it.

    Notes
    -----
    A ``ValueError`` says what is wrong if lengths differ, values are missing, there is one group
    only, a metric is unknown, or ``privileged`` is not among the groups.

    References
    ----------
    Bird et al. (2020), Fairlearn: a toolkit for assessing and improving fairness in AI.
    Kleinberg, Mullainathan and Raghavan (2017), Inherent trade-offs in the fair determination of
    risk scores, arXiv:1609.05807 (calibration and balance).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> sex = rng.choice(["f", "m"], size=200)
    >>> y = rng.integers(0, 2, size=200)
    >>> g = group_metrics(y, y, sensitive_features=sex, metrics=["true_positive_rate"])
    >>> g.difference()["true_positive_rate"]
    0.0
    >>> bool(g.ci()[0, 0] < 0 < g.ci()[0, 1])
    True
    >>> g.signed_difference().direction
    'm minus f'
    """
    check_aligned(
        y_true=y_true, y_pred=y_pred, sensitive_features=sensitive_features, y_score=y_score
    )
    decisions = as_decisions(y_true, y_pred, pos_label)
    n = len(decisions.y_true)
    groups = as_groups(sensitive_features, n)
    if privileged is not None:
        groups.index(privileged)
    score = None if y_score is None else as_score(y_score, decisions)
    chosen = choose(metrics, decisions, score)
    return assemble(groups, chosen, privileged, random_state, decisions)


def assemble(
    groups: Groups,
    chosen: Chosen,
    privileged: Any,
    random_state: RandomState,
    decisions: Decisions | None,
) -> GroupMetrics:
    """Compute the chosen metrics in every group, and warn of what is small or undefined."""
    sample = Sample(groups.codes, len(groups.labels), chosen.rates, chosen.others)
    names = chosen.names
    by_group = np.stack([sample.values(name) for name in names], axis=1)
    groups.warn_if_small(stacklevel=3)
    warn_if_undefined(by_group, names, groups.labels)
    return GroupMetrics(
        metrics=names,
        groups=groups.labels,
        sensitive_names=groups.names,
        counts=groups.counts,
        overall=NamedArray([sample.value(name) for name in names], names),
        by_group=NamedArray(by_group, names, groups.labels),
        privileged=privileged,
        random_state=random_state,
        _sample=sample,
        _reference=0 if privileged is None else groups.index(privileged),
        _decisions=decisions,
    )
