"""Subgroup fairness: the subgroup whose rate is farthest from that of all, weighted by its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.core.alignment import check_aligned
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_choice, check_positive_int
from trustml.evidence._tests import permutation_pvalue
from trustml.fairness._known_groups import sensitive_columns
from trustml.fairness._measure import FairnessMeasure
from trustml.fairness._rates import RATES, as_decisions, rate_masks
from trustml.fairness._subgroup_language import (
    Conditions,
    as_measured,
    conditions_of,
    linear_features,
    sums_over_conjunctions,
)

_KINDS = ("conjunction", "linear")
_SHOWN = 10  # subgroups in the table
_TIED = 1e-9  # relative difference of sums of the same rows


def subgroup_unfairness(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    rate: str = "false_positive_rate",
    subgroups: str = "conjunction",
    depth: int = 2,
    n_bins: int = 4,
    n_permutations: int = 0,
    random_state: RandomState = None,
    pos_label: Any = None,
) -> FairnessMeasure:
    r"""Return the subgroup that is treated most differently, and by how much.

    A model may be fair to women and to old people, and not to old women. Over all subgroups g
    that the sensitive columns describe, the largest

    .. math:: P(g, D) \, \left| r(g) - r \right|

    where r is the rate, over all rows and in g, and D says that a row counts for it (its label is
    negative, for the false positive rate). The weight is why a subgroup of three rows is no news.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        What subgroups are described by. Numbers of many values are cut at their quantiles.
    rate : str
        The rate that is compared: "false_positive_rate", "selection_rate" (statistical parity),
        or any other rate of ``group_metrics``.
    subgroups : {"conjunction", "linear"}
        "conjunction": all joins of up to ``depth`` conditions such as "sex = f" and "age > 30",
        searched exactly. "linear": half-spaces of the columns, by Kearns et al.'s heuristic (a
        least squares fit of the costs, with the best threshold along it and along each column);
        the result is then a lower bound.
    depth : int
        Conditions that are joined.
    n_bins : int
        Bins of equal mass of a column of many numbers.
    n_permutations : int
        Shuffles behind ``p_value``: the largest of many violations is never 0, so ask whether it
        is larger than that of a model which does not see the columns. 0 asks for none.
    random_state : int, Generator or None
        Seed of the shuffles.
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Returns
    -------
    FairnessMeasure
        ``value`` in [0, 1], ``words`` describe the subgroup, ``rows`` are its members, and the
        table has the ten worst (for "linear" the worst).

    Raises
    ------
    ValueError
        If no row counts, there is nothing to tell rows apart, or the search is too large.

    References
    ----------
    Kearns et al. (2018), Preventing fairness gerrymandering, arXiv:1711.05144, section 2.
    Kearns et al. (2019), An empirical study of rich subgroup fairness, arXiv:1808.08166.

    Examples
    --------
    >>> import numpy as np
    >>> sex, age = np.tile(["f", "m"], 40), np.repeat(["old", "young"], 40)
    >>> decided = (sex == "f") == (age == "old")  # half of each sex and each age
    >>> found = subgroup_unfairness(
    ...     decided, decided, sensitive_features={"sex": sex, "age": age}, rate="selection_rate"
    ... )
    >>> found.value, len(found.rows)
    (0.125, 20)
    """
    check_choice(rate, "rate", RATES)
    check_choice(subgroups, "subgroups", _KINDS)
    depth, n_bins = check_positive_int(depth, "depth"), check_positive_int(n_bins, "n_bins")
    if n_permutations != 0:
        check_positive_int(n_permutations, "n_permutations")
    check_aligned(y_true=y_true, y_pred=y_pred, sensitive_features=sensitive_features)
    decisions = as_decisions(y_true, y_pred, pos_label)
    n = len(decisions.y_true)
    success, counts = rate_masks(rate, decisions)
    if not counts.any():
        raise ValueError(f"{rate} is undefined here: no row counts for it")
    columns = as_measured(sensitive_columns(sensitive_features, n))
    overall = float(success[counts].mean())
    costs = np.where(counts, success - overall, 0.0) / n
    search: _Conjunctions | _HalfSpaces
    if subgroups == "conjunction":
        search = _Conjunctions(conditions_of(columns, n_bins), depth)
    else:
        search = _HalfSpaces(*linear_features(columns, n_bins), counts)
    found = search.worst(costs)
    p_value = None
    if n_permutations:
        rng, shuffled = numpy_generator(random_state), costs.copy()
        draws = np.empty(n_permutations)
        for b in range(n_permutations):
            shuffled[counts] = rng.permutation(costs[counts])
            draws[b] = search.largest(shuffled)
        p_value = float(permutation_pvalue(abs(found[0][0]), draws, "greater", 1e-12))
    inside = [rows & counts for _, _, rows in found]
    rates = np.array([success[rows].mean() if rows.any() else np.nan for rows in inside])
    violation = np.array([rows.mean() for rows in inside]) * np.abs(rates - overall)
    _, words, members = found[0]
    sentence = (
        f"{rate.replace('_', ' ')} {rates[0]:.3g} of the {int(inside[0].sum())} rows with {words}, "
        f"{overall:.3g} of all {int(counts.sum())}"
    )
    table = {
        "subgroup": np.array([text for _, text, _ in found], dtype=object),
        "violation": violation,
        rate: rates,
        "rows that count": np.array([int(rows.sum()) for rows in inside]),
    }
    rows = np.flatnonzero(members)
    value = float(violation[0])
    return FairnessMeasure("subgroup unfairness", value, sentence, table, rows, p_value)


Found = tuple[float, str, np.ndarray]  # signed violation, words, member rows


@dataclass(frozen=True)
class _Conjunctions:
    """All joins of at most ``depth`` conditions."""

    conditions: Conditions
    depth: int

    def largest(self, costs: np.ndarray) -> float:
        """Return the largest violation."""
        found = sums_over_conjunctions(self.conditions, costs, self.depth)
        return max(float(np.abs(sums).max()) for _, sums in found)

    def worst(self, costs: np.ndarray) -> list[Found]:
        """Return the worst subgroups, each once, in the fewest words."""
        candidates: list[tuple[float, tuple[int, ...]]] = []
        for prefix, sums in sums_over_conjunctions(self.conditions, costs, self.depth):
            flat: np.ndarray = np.triu(sums).ravel() if sums.ndim == 2 else sums
            keep = min(12 * _SHOWN, len(flat))
            for place in np.argpartition(-np.abs(flat), keep - 1)[:keep]:
                joined = {*prefix, *(int(i) for i in np.unravel_index(place, sums.shape))}
                candidates.append((float(flat[place]), tuple(sorted(joined))))
        top = max(abs(value) for value, _ in candidates) or 1.0
        # Sums of the same rows differ in the last digits: equal ones are ordered by their words.
        candidates.sort(key=lambda c: (-round(abs(c[0]) / top / _TIED), len(c[1]), c[1]))
        found: list[Found] = []
        seen: set[bytes] = set()
        cells, cell, words = self.conditions.cells, self.conditions.cell, self.conditions.words
        for value, joined_conditions in candidates:
            met = np.asarray(cells[:, list(joined_conditions)].all(1))
            if met.tobytes() in seen or not met.any():
                continue
            seen.add(met.tobytes())
            text = " and ".join(words[j] for j in joined_conditions)
            found.append((value, text, met[cell]))
            if len(found) == _SHOWN:
                break
        return found


@dataclass(frozen=True)
class _HalfSpaces:
    """Half-spaces whose normal is a least squares fit of the costs, or one column."""

    features: np.ndarray
    names: tuple[str, ...]
    counts: np.ndarray

    def largest(self, costs: np.ndarray) -> float:
        """Return the largest violation."""
        return max(abs(value) for value, _, _ in self._along(costs))

    def worst(self, costs: np.ndarray) -> list[Found]:
        """Return the worst half-space."""
        value, normal, threshold = max(self._along(costs), key=lambda found: abs(found[0]))
        largest = np.abs(normal).max()
        order = [j for j in np.argsort(-np.abs(normal), kind="stable") if abs(normal[j]) > 0]
        terms = [f"{normal[j] / largest:+.2g} {self.names[j]}" for j in order]
        text = f"{' '.join(terms)} > {threshold / largest:.3g}"
        return [(value, text, self.features @ normal > threshold)]

    def _along(self, costs: np.ndarray) -> list[tuple[float, np.ndarray, float]]:
        """Signed violation, normal and threshold of the best half-space along each normal."""
        x, c = self.features[self.counts], costs[self.counts]
        centred = x - x.mean(0)
        normals = [np.linalg.lstsq(centred, c, rcond=None)[0], *np.eye(x.shape[1])]
        found = []
        for normal in normals:
            projected = self.features[self.counts] @ normal
            order = np.argsort(projected, kind="stable")
            along = projected[order]
            ends = np.flatnonzero(np.diff(along) > 0)  # rows of one projection stay together
            if len(ends) == 0:
                continue
            above = c.sum() - np.cumsum(c[order])[ends]
            best = int(np.abs(above).argmax())
            threshold = float(along[ends[best]] + along[ends[best] + 1]) / 2
            found.append((float(above[best]), normal, threshold))
        if not found:
            raise ValueError("the rows that count do not differ in the sensitive features")
        return found
