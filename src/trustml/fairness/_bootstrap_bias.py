"""The largest difference between groups, freed of what noise adds to it."""

from __future__ import annotations

import numpy as np

from trustml.core.random import RandomState, numpy_generator
from trustml.fairness._bootstrap import bootstrap_groups, sample_of
from trustml.fairness._group_metrics import GroupMetrics
from trustml.fairness._named_array import NamedArray

_DRAWS = 2000
_HALVINGS = 20


def corrected_gap(g: GroupMetrics, *, random_state: RandomState = None) -> NamedArray:
    """Return the largest minus the smallest group, without the part that noise explains.

    Groups that do not differ still show a largest and a smallest value, and the more and the
    smaller the groups, the farther apart. Returned is the gap whose expected measurement is the
    measured one: the groups' values are drawn together until noise of
    their standard errors restores the difference that was seen.

    Parameters
    ----------
    g : GroupMetrics
        What ``group_metrics`` returned.
    random_state : int, Generator or None
        Seed of the noise.

    Returns
    -------
    numpy.ndarray of shape (m,)
        From 0 (no more than noise explains) to ``difference()``; NaN if fewer than two groups have
        the metric.

    References
    ----------
    Gourieroux, Monfort and Renault (1993), Indirect inference (the principle).

    Examples
    --------
    >>> import numpy as np
    >>> from trustml.fairness import group_metrics
    >>> s = np.repeat(range(10), 50)
    >>> y = (np.random.default_rng(0).random(500) < 0.5).astype(int)
    >>> g = group_metrics(y, y, sensitive_features=s, metrics=["selection_rate"])
    >>> round(g.difference()["selection_rate"], 2)
    0.14
    >>> corrected_gap(g, random_state=0)["selection_rate"] < 0.001
    True
    """
    sample, rng = sample_of(g), numpy_generator(random_state)
    errors = None
    if sample.others:
        errors = np.asarray(bootstrap_groups(g, 500, random_state=rng).standard_errors())
    found = np.full(len(g.metrics), np.nan)
    for j, name in enumerate(g.metrics):
        values = np.asarray(g.by_group)[:, j]
        if name in sample.rates:
            _, trials = sample.tally(name)
            pooled = sample.value(name)
            noise = np.sqrt(pooled * (1 - pooled) / np.maximum(trials, 1))
        elif errors is not None:
            noise = errors[:, j]
        defined = np.isfinite(values) & np.isfinite(noise)
        if defined.sum() >= 2:
            found[j] = _shrunken(values[defined], noise[defined], rng)
    return NamedArray(found, g.metrics)


def _shrunken(values: np.ndarray, noise: np.ndarray, rng: np.random.Generator) -> float:
    """Gap of values pulled together until their noisy gap is, on average, the one of values."""
    seen = float(np.ptp(values))
    apart = values - values.mean()
    disturbed = noise * rng.standard_normal((_DRAWS, len(values)))
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        scale = (low + high) / 2
        if np.ptp(scale * apart + disturbed, axis=1).mean() < seen:
            low = scale
        else:
            high = scale
    # The last bracket is closed around 0 when noise alone explains the gap.
    return low * seen
