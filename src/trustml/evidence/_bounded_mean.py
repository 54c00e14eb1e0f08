"""p-values and upper confidence bounds for means of bounded losses, many columns at once."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from trustml.core.validation import check_choice, restore, to_numpy
from trustml.evidence._checks import check_probability
from trustml.evidence._concentration import hoeffding_bentkus

_CELLS = 2**20  # losses that are worked on at once: the memory beyond the table
_HALVINGS = 45


def mean_pvalue(
    losses: Any,
    alpha: float,
    method: str = "hoeffding-bentkus",
    bound: float = 1.0,
    aim: float = 0.1,
) -> Any:
    """Return p-values of "the true mean loss is at least ``alpha``", one a column.

    Each is valid at any n and any law of independent losses in [0, bound].

    Parameters
    ----------
    losses : array of shape (n,) or (n, m)
        Independent losses in [0, bound], rows that are drawn alike; columns may depend on each
        other, as the losses at m thresholds do.
    alpha : float in (0, bound)
        Level of the mean that is tested; rejecting means the mean is below it.
    method : {"hoeffding-bentkus", "wsr", "clopper-pearson", "empirical-bernstein"}
        "wsr": betting martingale, the smallest p-values for losses of low variance; it reads the
        rows in the order given, which must not depend on the losses. "clopper-pearson": exact,
        for losses that are 0 or ``bound`` and nothing between.
    bound : float
        Largest loss that is possible.
    aim : float in (0, 1)
        Error rate at which the p-value will be compared: what the bets of "wsr" are tuned to. The
        p-value holds at every rate, but must not choose its aim.

    Returns
    -------
    float, or array of shape (m,)
        p-values in [0, 1].

    Raises
    ------
    ValueError
        If a loss is NaN or outside [0, bound], ``alpha`` outside (0, bound), or the method asks
        for losses of two values.

    References
    ----------
    Bates, Angelopoulos, Lei, Malik and Jordan (2021), Distribution-free, risk-controlling
    prediction sets, arXiv:2101.02703 (Hoeffding-Bentkus, and the bets of "wsr").
    Waudby-Smith and Ramdas (2024), Estimating means of bounded random variables by betting,
    arXiv:2010.09686.
    Maurer and Pontil (2009), Empirical Bernstein bounds and sample variance penalization,
    arXiv:0907.3740.

    Examples
    --------
    >>> losses = [0.0] * 190 + [1.0] * 10
    >>> bool(mean_pvalue(losses, alpha=0.1, method="clopper-pearson") < 0.01)
    True
    """
    table, aim = _scaled(losses, bound, method), check_probability(aim, "aim")
    level = float(alpha) / float(bound)
    if not 0 < level < 1:
        raise ValueError(f"alpha must be in (0, bound) = (0, {bound:g}), got {alpha!r}")
    return _by_columns(table, losses, lambda block: _LAWS[method](block, aim).pvalue(level))


def mean_upper_bound(
    losses: Any, delta: float, method: str = "hoeffding-bentkus", bound: float = 1.0
) -> Any:
    """Return upper confidence bounds of the true mean loss, one a column.

    The mean exceeds its bound with probability at most ``delta``, at any n.

    Parameters
    ----------
    losses : array of shape (n,) or (n, m)
        Independent losses in [0, bound], rows that are drawn alike.
    delta : float in (0, 1)
        Error rate of each bound.
    method : {"hoeffding-bentkus", "wsr", "clopper-pearson", "empirical-bernstein"}
        As for `mean_pvalue`, whose inverse this is: the bound is below a level where the p-value
        at that level, aimed at ``delta``, is below ``delta``.
    bound : float
        Largest loss that is possible.

    Returns
    -------
    float, or array of shape (m,)
        In (0, bound], never below the mean of the losses.

    References
    ----------
    Those of `mean_pvalue`.

    Examples
    --------
    >>> round(mean_upper_bound([0.0] * 100, delta=0.05, method="clopper-pearson"), 4)
    0.0295
    """
    table, delta = _scaled(losses, bound, method), check_probability(delta, "delta")
    return _by_columns(
        table, losses, lambda block: _LAWS[method](block, delta).upper_bound(delta) * float(bound)
    )


class _Law(ABC):
    """p-values of columns of losses in [0, 1], falling as the tested level grows."""

    def __init__(self, table: np.ndarray, aim: float) -> None:
        self.table, self.aim, self.mean = table, aim, table.mean(axis=0)

    @abstractmethod
    def pvalue(self, levels: Any) -> np.ndarray:
        """Return p-values (m,) at levels in (0, 1], one for all columns or one each."""

    def upper_bound(self, delta: float) -> np.ndarray:
        """Return the lowest levels (m,) at which the p-value is at most ``delta``."""
        low, high = self.mean, np.ones(self.table.shape[1])
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = self.pvalue(middle) <= delta
            high, low = np.where(below, middle, high), np.where(below, low, middle)
        return high


class _HoeffdingBentkus(_Law):
    def pvalue(self, levels: Any) -> np.ndarray:
        return hoeffding_bentkus(self.mean, len(self.table), levels)


class _ClopperPearson(_Law):
    def pvalue(self, levels: Any) -> np.ndarray:
        from scipy.special import bdtr

        p: np.ndarray = bdtr(self.table.sum(axis=0), len(self.table), levels)
        return p

    def upper_bound(self, delta: float) -> np.ndarray:
        from scipy.special import betaincinv

        k, n = self.table.sum(axis=0), len(self.table)
        return np.where(k < n, betaincinv(k + 1, np.maximum(n - k, 1), 1 - delta), 1.0)


class _EmpiricalBernstein(_Law):
    """Maurer and Pontil's bound, mean + c x + d x^2 at x = sqrt(log(2 / delta)), and its root."""

    def __init__(self, table: np.ndarray, aim: float) -> None:
        super().__init__(table, aim)
        n = len(table)
        # One row has no variance: its bound is infinite, its p-value 1.
        self.c = np.sqrt(2 * table.var(axis=0, ddof=1) / n) if n > 1 else np.zeros_like(self.mean)
        self.d = 7 / (3 * (n - 1)) if n > 1 else math.inf

    def pvalue(self, levels: Any) -> np.ndarray:
        gap = np.maximum(levels - self.mean, np.finfo(float).tiny)
        # The root in the form that is stable where d is small.
        x = 2 * gap / (self.c + np.sqrt(self.c**2 + 4 * self.d * gap))
        p: np.ndarray = np.minimum(1.0, 2 * np.exp(-(x**2)))
        return p

    def upper_bound(self, delta: float) -> np.ndarray:
        x = math.sqrt(math.log(2 / delta))
        upper: np.ndarray = np.minimum(1.0, self.mean + self.c * x + self.d * x * x)
        return upper


class _Betting(_Law):
    """One martingale over the whole sample, and one maximum: Ville's inequality knows no other."""

    def __init__(self, table: np.ndarray, aim: float) -> None:
        super().__init__(table, aim)
        self.bets = _bets(table, aim)

    def pvalue(self, levels: Any) -> np.ndarray:
        wealth = np.cumsum(np.log1p(-self.bets * (self.table - levels)), axis=0)
        p = np.exp(-np.maximum(wealth.max(axis=0), 0.0))
        # A level below the sample's mean is never accepted: that only raises the p-value.
        return np.where(self.mean >= levels, 1.0, p)


def _bets(losses: np.ndarray, aim: float) -> np.ndarray:
    """Stake of each row from the rows before it alone: what makes the wealth a martingale."""
    n = len(losses)
    count = np.arange(1, n + 1)[:, None]
    mean = (0.5 + np.cumsum(losses, axis=0)) / (count + 1)
    variance = np.full(losses.shape, 0.25)
    variance[1:] = ((0.25 + np.cumsum((losses - mean) ** 2, axis=0)) / (count + 1))[:-1]
    return np.minimum(1.0, np.sqrt(2 * math.log(1 / aim) / (n * variance)))


_LAWS: dict[str, Callable[[np.ndarray, float], _Law]] = {
    "hoeffding-bentkus": _HoeffdingBentkus,
    "wsr": _Betting,
    "clopper-pearson": _ClopperPearson,
    "empirical-bernstein": _EmpiricalBernstein,
}
MEAN_METHODS = tuple(_LAWS)


def as_losses(losses: Any, bound: float, name: str = "losses") -> np.ndarray:
    """Return losses (n,) or (n, m) as float64, refused outside [0, bound].

    Returns
    -------
    ndarray of shape (n,) or (n, m)

    Raises
    ------
    ValueError
        If the shape is another, there are none, or one is NaN or outside [0, bound].
    """
    if not (math.isfinite(bound) and bound > 0):
        raise ValueError(f"bound must be finite and above 0, got {bound!r}")
    table = to_numpy(losses).astype(np.float64)
    if table.ndim not in (1, 2) or table.size == 0:
        raise ValueError(
            f"{name} must be a non-empty array (n,) or (n, m), got shape {table.shape}"
        )
    wrong = ~((table >= 0) & (table <= bound))
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name} must lie in [0, {bound:g}], got {table[where]:g} at index {where}; state the "
            "largest possible loss as bound=, and drop or repair rows with NaN"
        )
    return table


def column_law(losses: Any, method: str, bound: float, aim: float, reverse: bool = False) -> _Law:
    """Return the p-values of checked losses over their bound, or of what they leave of it."""
    table = _scaled(losses, bound, method)
    return _LAWS[method](1 - table if reverse else table, aim)


def _scaled(losses: Any, bound: float, method: str) -> np.ndarray:
    """Return losses over their bound, (n, m)."""
    check_choice(method, "method", MEAN_METHODS)
    table = as_losses(losses, bound) / float(bound)
    table = table[:, None] if table.ndim == 1 else table
    if method == "clopper-pearson" and not np.isin(table, (0.0, 1.0)).all():
        raise ValueError(
            f"clopper-pearson needs losses that are 0 or {bound:g}; use 'wsr' or "
            "'hoeffding-bentkus'"
        )
    return table


def _by_columns(table: np.ndarray, losses: Any, answer: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Answer a block of columns at a time; columns know nothing of each other."""
    width = max(1, _CELLS // len(table))
    blocks = [table[:, i : i + width] for i in range(0, table.shape[1], width)]
    values = np.concatenate([answer(block) for block in blocks])
    return float(values[0]) if np.ndim(losses) == 1 else restore(values, losses)
