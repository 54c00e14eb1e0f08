"""What can be known of gaps between groups that were never recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from trustml.core.alignment import check_aligned
from trustml.core.results import Result
from trustml.core.validation import check_choice, check_finite, frame_columns, to_numpy
from trustml.fairness._assert_fair import RATES_OF
from trustml.fairness._rates import as_decisions, label_vector, rate_masks

CRITERIA_OF_RATES = tuple(name for name in RATES_OF if name not in ("loss_parity", "worst_group"))
_SAME = 1e-9


@dataclass(frozen=True, eq=False, repr=False)
class ProxyBounds(Result):
    """All gaps between groups that agree with what is known of the groups.

    Attributes
    ----------
    criterion : str
        What was compared.
    gap : tuple of float
        Least and largest gap, unsigned, over groups and rates. The largest is attained; the least
        one is for two groups and one rate, and else no true gap is below it.
    metrics : tuple of str
        The m rates of the criterion.
    groups : tuple
        The k groups.
    shares : numpy.ndarray of shape (k,)
        Share of each group among the rows.
    rate_low, rate_high : numpy.ndarray of shape (k, m)
        Ends of each group's rates, both attained; NaN where the group has no row that counts.
    difference_low, difference_high : numpy.ndarray of shape (k, k, m)
        Ends of the rate of the first group minus that of the second, both attained.
    """

    criterion: str
    gap: tuple[float, float]
    metrics: tuple[str, ...]
    groups: tuple[Any, ...]
    shares: np.ndarray
    rate_low: np.ndarray
    rate_high: np.ndarray
    difference_low: np.ndarray
    difference_high: np.ndarray

    def _columns(self) -> dict[str, Any]:
        rows = [
            (name, str(self.groups[a]), str(self.groups[b]),
             self.difference_low[a, b, j], self.difference_high[a, b, j])
            for j, name in enumerate(self.metrics)
            for b, a in combinations(range(len(self.groups)), 2)
        ]  # fmt: skip
        titles, columns = (
            ("metric", "group", "minus", "at least", "at most"),
            zip(*rows, strict=True),
        )
        return {title: np.array(c) for title, c in zip(titles, columns, strict=True)}

    def _title(self) -> str:
        low, high = self.gap
        return f"ProxyBounds: the {self.criterion} gap is between {low:.3g} and {high:.3g}"


def proxy_bounds(
    y_true: Any,
    y_pred: Any,
    *,
    probabilities: Any,
    proxy: Any = None,
    criterion: str = "demographic_parity",
    pos_label: Any = None,
) -> ProxyBounds:
    """Bound the gap between groups of which only P(group | proxy) is known.

    Within the rows of one proxy value nothing says which of them belong to the group: each way of
    assigning them that has the known shares is possible, and has its own gap. Multiplying by the
    probabilities instead, as is often done, assumes that group and decision have nothing to do
    with each other given the proxy, which is the question.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        True and decided labels.
    probabilities : array of shape (n, k), frame or dict of columns
        P(group | proxy) of each row, rows summing to 1; columns of a frame or dict name the groups.
    proxy : array-like of shape (n,), optional
        The proxy, or bins of it: some dozens of rows each; probabilities are averaged within. None:
        rows with the same probabilities. The finer the proxy, the narrower the bounds, but bins of
        few rows pretend to know which decision goes with which proxy value.
    criterion : str
        "demographic_parity", "equal_opportunity", "predictive_equality", "equalized_odds",
        "predictive_parity" or "error_parity".
    pos_label : object or None
        The favourable label; None accepts {0, 1} and {-1, 1}, where it is 1.

    Returns
    -------
    ProxyBounds
        Bounds of these rows' gaps, exact for the given probabilities. Sampling is not in them, and
        a bootstrap of them is no remedy: where they bend it covers 80 % at a nominal 95 %.

    Raises
    ------
    ValueError
        If probabilities are none, or there is no proxy and nearly every row has its own.

    References
    ----------
    Kallus, Mao and Zhou (2022), Assessing algorithmic fairness with unobserved protected class
    using data combination, arXiv:1906.00285.

    Examples
    --------
    >>> import numpy as np
    >>> decided = np.repeat([0, 1, 0, 1], [30, 20, 10, 40])
    >>> town = np.repeat(["a", "b"], 50)
    >>> f = np.where(town == "a", 0.9, 0.1)
    >>> found = proxy_bounds(decided, decided, probabilities={"f": f, "m": 1 - f}, proxy=town)
    >>> round(found.gap[0], 2), round(found.gap[1], 2)
    (0.2, 0.6)
    """
    check_choice(criterion, "criterion", CRITERIA_OF_RATES)
    check_aligned(y_true=y_true, y_pred=y_pred, probabilities=probabilities, proxy=proxy)
    decisions = as_decisions(y_true, y_pred, pos_label)
    n = len(decisions.y_true)
    groups, known = _probabilities(probabilities, n)
    if proxy is None:
        cell = np.unique(known.round(9), axis=0, return_inverse=True)[1].reshape(-1)
        if 2 * (cell.max() + 1) > n:
            raise ValueError(
                f"{cell.max() + 1} different rows of probabilities for {n} rows: pass proxy=, bins "
                "of some dozens of rows, or one row would seem to tell all about its proxy value"
            )
    else:
        values = label_vector(proxy, "proxy")
        if len(values) != n:
            raise ValueError(f"proxy must have {n} rows, got {len(values)}")
        cell = np.unique(values.astype(str) if values.dtype == object else values,
                         return_inverse=True)[1].reshape(-1)  # fmt: skip
    size = np.bincount(cell)
    share = np.stack([np.bincount(cell, column) / size for column in known.T])  # (k, cells)
    metrics = RATES_OF[criterion]
    low, high = np.empty((2, len(groups), len(metrics)))
    for j, name in enumerate(metrics):
        success, counts = rate_masks(name, decisions)
        hit = np.bincount(cell[success & counts], minlength=len(size)) / size
        miss = np.bincount(cell[counts & ~success], minlength=len(size)) / size
        # Frechet's bounds of how much of a group is among hits and among misses. A group can have
        # the most hits and the fewest misses at once, while another has the reverse.
        least, most = (
            [(size * np.maximum(0, share + part - 1)).sum(1) for part in (hit, miss)],
            [(size * np.minimum(share, part)).sum(1) for part in (hit, miss)],
        )
        high[:, j] = _share(most[0], least[1], 0.0)  # without either there are no hits at all
        low[:, j] = _share(least[0], most[1], 1.0)  # without either there are no misses at all
        exists = most[0] + most[1] > 0
        low[~exists, j] = high[~exists, j] = math.nan
    difference_low = low[:, None] - high[None, :]
    difference_high = high[:, None] - low[None, :]
    return ProxyBounds(
        criterion,
        _gap(difference_low, difference_high),
        metrics,
        groups,
        known.mean(0),
        low,
        high,
        difference_low,
        difference_high,
    )


def _share(hits: np.ndarray, misses: np.ndarray, otherwise: float) -> np.ndarray:
    total = hits + misses
    value: np.ndarray = np.divide(hits, total, out=np.full_like(total, otherwise), where=total > 0)
    return value


def _gap(low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """Return the ends of the largest unsigned difference between two different groups."""
    apart = ~np.eye(len(low), dtype=bool)
    low, high = low[apart], high[apart]
    known = np.isfinite(low)
    if not known.any():
        return math.nan, math.nan
    least = np.maximum(0, np.maximum(low, -high))[known].max()
    return float(least), float(np.maximum(-low, high)[known].max())


def _probabilities(given: Any, n: int) -> tuple[tuple[Any, ...], np.ndarray]:
    """Return the groups, and their probabilities (n, k)."""
    if isinstance(given, dict):
        names: Any = list(given)
        values = np.stack([label_vector(c, f"probabilities[{k!r}]") for k, c in given.items()], 1)
    else:
        names, values = frame_columns(given), to_numpy(given)
    if values.ndim != 2 or values.shape[0] != n or values.shape[1] < 2:
        raise ValueError(
            f"probabilities must have shape ({n}, k), a column for each of two or more groups, got "
            f"{values.shape}"
        )
    known = values.astype(np.float64)
    check_finite(known, "probabilities")
    if known.min() < -_SAME or abs(known.sum(1) - 1).max() > 1e-6:
        raise ValueError("probabilities must be at least 0 and sum to 1 in each row")
    groups = tuple(range(known.shape[1])) if names is None else tuple(names)
    return groups, np.clip(known, 0, 1)
