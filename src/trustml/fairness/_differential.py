"""Differential fairness: how far one group's chance of an outcome is from another's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trustml.core.alignment import check_aligned
from trustml.core.validation import check_same_length
from trustml.fairness._groups import as_groups
from trustml.fairness._measure import FairnessMeasure
from trustml.fairness._rates import label_vector


def differential_fairness(
    y: Any, *, sensitive_features: Any, concentration: float = 1.0
) -> FairnessMeasure:
    r"""Return the largest log ratio between groups of the probability of an outcome.

    The smallest :math:`\epsilon` with :math:`e^{-\epsilon} \le P(y \mid s_i) / P(y \mid s_j) \le
    e^{\epsilon}` for all outcomes and pairs of groups. With several sensitive columns the groups
    are their intersections, and what holds for these holds for every coarser grouping too.
    Probabilities are smoothed: :math:`(N_{ys} + c/m) / (N_s + c)` for m outcomes.

    Parameters
    ----------
    y : array-like of shape (n,)
        Decisions, of any number of classes; or true labels, for the unfairness of the data. The
        difference of both is what the model adds (bias amplification).
    sensitive_features : array of shape (n,) or (n, k), frame, series or dict of columns
        Group membership; several columns give their intersections.
    concentration : float
        Pseudo-rows c in each group; 0 takes the rates as they are, and is infinite where an outcome
        never occurs in a group.

    Returns
    -------
    FairnessMeasure
        ``value`` is ε, at least 0; ``exp(value)`` the largest ratio. The table has each group's
        smoothed probabilities.

    Raises
    ------
    ValueError
        If there is one outcome only, y is no label, or ``concentration`` is negative.

    References
    ----------
    Foulds et al. (2020), An intersectional definition of fairness, arXiv:1807.08362.

    Examples
    --------
    >>> y, sex = [1, 0, 0, 0, 1, 1, 0, 0] * 10, list("ffffmmmm") * 10
    >>> fair = differential_fairness(y, sensitive_features=sex, concentration=0)
    >>> round(fair.value, 4)
    0.6931
    >>> fair.words
    'outcome 1 is 2 times as likely in m (0.5) as in f (0.25)'
    """
    concentration = float(concentration)
    if not 0 <= concentration < math.inf:
        raise ValueError(f"concentration must be finite and not negative, got {concentration}")
    check_aligned(y=y, sensitive_features=sensitive_features)
    labels = label_vector(y, "y")
    if labels.dtype.kind == "f" and (labels != np.round(labels)).any():
        raise ValueError("y has numbers with fractions; pass decisions, such as scores > 0.5")
    groups = as_groups(sensitive_features, check_same_length(y=labels))
    outcomes, code = np.unique(_sortable(labels), return_inverse=True)
    if len(outcomes) < 2:
        raise ValueError(f"y has one outcome only, {outcomes[0]!r}; at least two are compared")
    k, m = len(groups.labels), len(outcomes)
    counts = np.bincount(groups.codes * m + code, minlength=k * m).reshape(k, m)
    rates = (counts + concentration / m) / (groups.counts[:, None] + concentration)
    with np.errstate(divide="ignore"):
        logs = np.log(rates)
    spread = logs.max(0) - logs.min(0)
    worst = int(spread.argmax())
    high, low = int(rates[:, worst].argmax()), int(rates[:, worst].argmin())
    epsilon = float(spread[worst])
    groups.warn_if_small(stacklevel=2)
    ratio = "infinitely" if math.isinf(epsilon) else f"{math.exp(epsilon):.3g} times"
    words = f"outcome {outcomes[worst]} is {ratio} as likely in {groups.labels[high]} "
    words += f"({rates[high, worst]:.3g}) as in {groups.labels[low]} ({rates[low, worst]:.3g})"
    if epsilon == 0:
        words = "every outcome is as likely in all groups"
    table = {
        "group": np.array([str(g) for g in groups.labels], dtype=object),
        **{f"P({outcomes[j]})": rates[:, j] for j in np.argsort(-spread, kind="stable")},
        "count": groups.counts,
    }
    return FairnessMeasure("differential fairness", epsilon, words, table)


def _sortable(labels: np.ndarray) -> np.ndarray:
    return labels.astype(str) if labels.dtype == object else labels
