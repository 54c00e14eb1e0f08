"""Excess risk of the target coverage: conditional coverage that a classifier can tell."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone

from trustml.conformal._coverage import covered, one_level
from trustml.core.random import RandomState, numpy_generator
from trustml.core.validation import check_finite, check_positive_int, to_numpy
from trustml.evidence import Interval, exact_alpha, mean_interval


def ert(
    X: Any,
    y_true: Any,
    prediction: Any,
    alpha: float = 0.1,
    classifier: Any = None,
    n_splits: int = 5,
    classes: Any = None,
    level: float = 0.95,
    random_state: RandomState = None,
) -> Interval:
    """Return how far coverage is from 1 - alpha, given the inputs, as a classifier can tell.

    A classifier learns from some rows where coverage is above and where it is below 1 - alpha; on
    the others its side, +1 or -1, times (covered - (1 - alpha)) is averaged. The mean is at most
    E|P(covered | x) - (1 - alpha)|, the L1 error of conditional coverage, and reaches it if the
    sides are right: whatever the classifier, the low end is a lower confidence bound.

    Parameters
    ----------
    X : array of shape (n, ...)
        Rows as numbers (flattened).
    y_true : array of shape (n,)
        Labels, or values for intervals.
    prediction : bool array of shape (n, c), or float array of shape (n, 2)
        Sets or intervals at ``alpha``.
    alpha : float in (0, 1)
        Error rate that was asked for.
    classifier : scikit-learn classifier with predict_proba, or None
        What learns; it is cloned. None: gradient boosted trees.
    n_splits : int
        Folds, at least 2; every row is judged by a classifier that has not seen it.
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.
    level : float in (0, 1)
        Confidence level of the interval.
    random_state : int, Generator or None
        Seed of the folds and of the default classifier.

    Returns
    -------
    Interval
        In the unit of probability; at 0 or below where no error is found. ``method`` tells the
        parts of too low and of too high coverage, which add up to it.

    Raises
    ------
    ValueError
        If there are fewer rows than folds, or shapes do not fit.

    References
    ----------
    Braun, Holzmüller, Jordan and Bach (2025), Conditional coverage diagnostics for conformal
    prediction, arXiv:2512.11779.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> X = np.linspace(-1, 1, 400)[:, None]
    >>> sets = np.hstack([X < 0.8, X >= 0.8])  # misses a tenth of the rows, always the same
    >>> y = np.zeros(400, dtype=int)
    >>> found = ert(X, y, sets, 0.1, DecisionTreeClassifier(max_depth=1), random_state=0)
    >>> round(found.estimate, 2)  # 0.9 x 0.1 + 0.1 x 0.9
    0.18
    """
    hit = one_level(covered(y_true, prediction, classes))
    rows = np.asarray(to_numpy(X), dtype=np.float64).reshape(len(hit), -1)
    check_finite(rows, "X")
    folds = check_positive_int(n_splits, "n_splits")
    if not 2 <= folds <= len(hit):
        raise ValueError(f"n_splits must be from 2 to the {len(hit)} rows, got {folds}")
    rng, target = numpy_generator(random_state), float(1 - exact_alpha(alpha))
    if classifier is None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        classifier = HistGradientBoostingClassifier(random_state=int(rng.integers(2**32)))
    chance = np.empty(len(hit))
    for fold in np.array_split(rng.permutation(len(hit)), folds):
        others = np.ones(len(hit), dtype=bool)
        others[fold] = False
        if len(np.unique(hit[others])) == 1:
            chance[fold] = hit[others][0]
        else:
            chance[fold] = (
                clone(classifier).fit(rows[others], hit[others]).predict_proba(rows[fold])[:, 1]
            )
    gain = np.sign(chance - target) * (hit - target)
    low, high = (float(gain[side].sum() / len(hit)) for side in (chance < target, chance > target))
    found = mean_interval(gain, level)
    note = f"L1, {folds} folds, too low {low:.3g}, too high {high:.3g}"
    return Interval(found.estimate, found.low, found.high, found.level, note)
