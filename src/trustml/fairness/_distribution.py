"""Statistical parity of numbers: do predictions have the same distribution in every group."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.alignment import check_aligned
from trustml.core.validation import check_choice, check_same_length
from trustml.fairness._groups import as_groups
from trustml.fairness._measure import FairnessMeasure
from trustml.fairness._rates import label_vector

_METHODS = ("between_groups", "to_overall")


def distribution_parity_difference(
    y_pred: Any, *, sensitive_features: Any, method: str = "between_groups"
) -> FairnessMeasure:
    r"""Return the largest Kolmogorov distance between groups' distributions of predictions.

    .. math:: \max_{a, b} \sup_t \left| P(\hat y \le t \mid a) - P(\hat y \le t \mid b) \right|

    For regression, and for scores: it is the largest demographic parity difference of the decisions
    :math:`\hat y > t` over all thresholds.

    Parameters
    ----------
    y_pred : numbers of shape (n,)
        Predictions or scores; only their order matters.
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership; several columns give their intersections.
    method : {"between_groups", "to_overall"}
        Compare groups with each other, or each with everybody.

    Returns
    -------
    FairnessMeasure
        ``value`` in [0, 1]; 0 is statistical parity. ``words`` say at which threshold which groups
        are apart, and the table has each group's distance to everybody and its quartiles.

    Raises
    ------
    TypeError
        If the predictions are no numbers.

    References
    ----------
    Agarwal, Dudik and Wu (2019), Fair regression, arXiv:1905.12843, definition 1.

    Examples
    --------
    >>> predicted, sex = [1.0, 2.0, 3.0, 4.0] * 10, ["f", "f", "m", "m"] * 10
    >>> found = distribution_parity_difference(predicted, sensitive_features=sex)
    >>> found.value, found.words
    (1.0, 'predictions above 2: 0 of f, 1 of m')
    """
    check_choice(method, "method", _METHODS)
    check_aligned(y_pred=y_pred, sensitive_features=sensitive_features)
    values = label_vector(y_pred, "y_pred")
    if values.dtype.kind not in "biuf":
        raise TypeError(f"y_pred must hold numbers, got dtype {values.dtype}")
    values = values.astype(np.float64)
    groups = as_groups(sensitive_features, check_same_length(y_pred=values))
    groups.warn_if_small(stacklevel=2)
    points, place = np.unique(values, return_inverse=True)
    k = len(groups.labels)
    counts = np.bincount(groups.codes * len(points) + place, minlength=k * len(points))
    below = np.cumsum(counts.reshape(k, -1), axis=1) / groups.counts[:, None]
    everybody = np.cumsum(np.bincount(place)) / len(values)
    to_all = np.abs(below - everybody).max(1)
    quartiles = [np.quantile(values[groups.codes == g], [0.25, 0.5, 0.75]) for g in range(k)]
    if method == "to_overall":
        farthest = int(to_all.argmax())
        at = int(np.abs(below[farthest] - everybody).argmax())
        value, compared = to_all[farthest], [(farthest, below[farthest]), (None, everybody)]
    else:
        spread = below.max(0) - below.min(0)
        at = int(spread.argmax())
        high, low = int(below[:, at].argmax()), int(below[:, at].argmin())
        value, compared = spread[at], [(high, below[high]), (low, below[low])]
    said = [
        f"{1 - share[at]:.3g} of {'everybody' if g is None else groups.labels[g]}"
        for g, share in compared
    ]
    words = f"predictions above {points[at]:.4g}: {', '.join(said)}"
    table = {
        "group": np.array([str(label) for label in groups.labels], dtype=object),
        "distance to everybody": to_all,
        "lower quartile": np.array([q[0] for q in quartiles]),
        "median": np.array([q[1] for q in quartiles]),
        "upper quartile": np.array([q[2] for q in quartiles]),
        "count": groups.counts,
    }
    return FairnessMeasure("distribution parity difference", float(value), words, table)
