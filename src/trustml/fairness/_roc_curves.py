"""What thresholds on a group's scores can reach, and the best of it under a constraint."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linprog

from trustml.core.validation import check_choice
from trustml.fairness._criteria import CRITERIA
from trustml.warnings import SmallGroupWarning

_RATES = {
    "any": "selection_rate",
    "positive": "true_positive_rate",
    "negative": "false_positive_rate",
}
MET_BY_THRESHOLDS = (
    "demographic_parity",
    "equal_opportunity",
    "predictive_equality",
    "equalized_odds",
    "error_parity",
)
OBJECTIVES = ("accuracy", "balanced_accuracy")


@dataclass(frozen=True, eq=False)
class Curve:
    """The decisions "score at least t" about the rows of one group, from none to all of them.

    Attributes
    ----------
    thresholds : numpy.ndarray of shape (k,)
        Falling from infinity to minus infinity, halfway between scores that occur.
    true, false : numpy.ndarray of shape (k,)
        Weight of the favourably decided rows with, and without, the favourable label.
    """

    thresholds: np.ndarray
    true: np.ndarray
    false: np.ndarray

    def rate(self, name: str) -> np.ndarray:
        """Return a rate of ``RATES`` at each threshold, shape (k,); NaN without rows."""
        positive, negative = self.true[-1], self.false[-1]
        counted = {
            "true_positive_rate": (self.true, positive),
            "false_positive_rate": (self.false, negative),
            "selection_rate": (self.true + self.false, positive + negative),
            "zero_one_loss": (positive - self.true + self.false, positive + negative),
        }
        successes, weight = counted[name]
        return np.asarray(successes / weight if weight > 0 else np.full(len(successes), np.nan))

    def take(self, kept: np.ndarray) -> Curve:
        """Return the same at some of the thresholds; the last must stay."""
        return Curve(self.thresholds[kept], self.true[kept], self.false[kept])

    def hull(self) -> np.ndarray:
        """Return the thresholds on the concave hull: chance between two reaches all below it."""
        points = list(zip(self.false.tolist(), self.true.tolist(), strict=True))
        corners: list[int] = []
        for i, (x, y) in enumerate(points):
            while len(corners) > 1:
                (x1, y1), (x2, y2) = points[corners[-2]], points[corners[-1]]
                if (x2 - x1) * (y - y1) < (x - x1) * (y2 - y1):
                    break
                corners.pop()
            corners.append(i)
        return np.array(corners)


def curves_of(
    scores: np.ndarray, y: np.ndarray, codes: np.ndarray, weights: np.ndarray
) -> list[Curve]:
    """Return the curve of each group; equal scores are decided alike."""
    curves = []
    for g in range(int(codes.max()) + 1):
        mine = np.flatnonzero(codes == g)
        known, place = np.unique(-scores[mine], return_inverse=True)
        known, w = -known, weights[mine]
        true = np.bincount(place, w * y[mine], minlength=len(known)).cumsum()
        false = np.bincount(place, w * ~y[mine], minlength=len(known)).cumsum()
        middle = (known[:-1] + known[1:]) / 2
        # Between neighbouring floats there is no middle; the upper one belongs to the favoured.
        middle = np.where(middle > known[1:], middle, known[:-1])
        thresholds = np.concatenate([[np.inf], middle, [-np.inf]])
        curves.append(Curve(thresholds, np.append(0.0, true), np.append(0.0, false)))
    return curves


def curve_at(
    scores: np.ndarray, y: np.ndarray, weights: np.ndarray, thresholds: np.ndarray
) -> Curve:
    """Return one group's decisions "score at least t" at any thresholds, then about all rows."""
    order = np.argsort(scores)
    ends = np.append(thresholds, -np.inf)
    below = np.searchsorted(scores[order], ends)
    w = weights[order]
    true, false = (
        np.append(np.cumsum((w * part)[::-1])[::-1], 0.0)[below] for part in (y[order], ~y[order])
    )
    return Curve(ends, true, false)


def compared_rates(constraints: str) -> tuple[str, ...]:
    """Return the rates that a constraint wants equal."""
    check_choice(constraints, "constraints", MET_BY_THRESHOLDS)
    if constraints == "error_parity":
        return ("zero_one_loss",)
    return tuple(_RATES[label] for label in CRITERIA[constraints])


def check_rates(curves: list[Curve], rates: tuple[str, ...], labels: list[Any]) -> None:
    """Say which groups have no rows for a compared rate: they are left out of its comparison.

    Parameters
    ----------
    curves : list of Curve
        One a group.
    rates : tuple of str
        Names of rates.
    labels : list
        The groups.

    Raises
    ------
    ValueError
        If fewer than two groups are left.

    Warns
    -----
    SmallGroupWarning
        If a group is left out.
    """
    for name in rates:
        none = [g for c, g in zip(curves, labels, strict=True) if np.isnan(c.rate(name)).any()]
        text = (
            f"the {name.replace('_', ' ')} of the groups {none} is undefined: none of their rows "
            "has such a label; merge groups, bring more rows, or choose demographic_parity"
        )
        if len(curves) - len(none) < 2:
            raise ValueError(text)
        if none:
            warnings.warn(f"{text}; here it is not held", SmallGroupWarning, stacklevel=5)


def spread(values: list[np.ndarray]) -> np.ndarray:
    """Return the largest difference between groups, at each place; undefined groups apart."""
    known = np.stack([v for v in values if not np.isnan(v).any()])
    return np.asarray(np.ptp(known, axis=0))


def gains(curves: list[Curve], objective: str) -> list[np.ndarray]:
    """Return what each threshold of each group adds to the objective."""
    check_choice(objective, "objective", OBJECTIVES)
    positive, negative = sum(c.true[-1] for c in curves), sum(c.false[-1] for c in curves)
    if objective == "accuracy":
        positive = negative = positive + negative
    else:
        positive, negative = 2 * positive, 2 * negative
    return [c.true / positive + (c.false[-1] - c.false) / negative for c in curves]


def best_mixtures(
    curves: list[Curve], rates: tuple[str, ...], objective: str, tolerance: float
) -> list[np.ndarray]:
    """Return probabilities of each group's thresholds that do best, as a linear programme says.

    Parameters
    ----------
    curves : list of Curve
        One a group.
    rates : tuple of str
        What may differ by ``tolerance`` between groups.
    objective : str
        Of ``OBJECTIVES``.
    tolerance : float in [0, 1]
        Allowed range of each rate over the groups.

    Returns
    -------
    list of numpy.ndarray of shape (k,)
        Each sums to one.

    Raises
    ------
    RuntimeError
        If the programme is not solved.
    """
    gain = np.concatenate(gains(curves, objective))
    sizes = [len(c.thresholds) for c in curves]
    start = np.concatenate([[0], np.cumsum(sizes)])
    total, groups = start[-1], len(curves)
    # After the probabilities come levels: each rate of each group is between one of these and
    # that plus the tolerance.
    above = np.zeros((len(rates), groups, total + len(rates)))
    sums = np.zeros((groups, total + len(rates)))
    for g, curve in enumerate(curves):
        mine = slice(start[g], start[g + 1])
        sums[g, mine] = 1.0
        for r, name in enumerate(rates):
            rate = curve.rate(name)
            if not np.isnan(rate).any():
                above[r, g, mine] = rate
                above[r, g, total + r] = -1.0
    above = above.reshape(-1, total + len(rates))
    result = linprog(
        np.append(-gain, np.zeros(len(rates))),
        A_ub=np.concatenate([above, -above]),
        b_ub=np.repeat([tolerance, 0.0], len(above)),
        A_eq=sums,
        b_eq=np.ones(groups),
        bounds=(0, 1),
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if result.x is None:
        raise RuntimeError(f"the thresholds' linear programme was not solved: {result.message}")
    found = np.split(result.x[:total], start[1:-1])
    found = [np.where(p > 1e-12, p, 0.0) for p in found]
    return [p / p.sum() for p in found]
