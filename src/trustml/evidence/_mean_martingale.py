"""Evidence, at any time, that the mean of bounded losses is above a limit."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.validation import restore
from trustml.evidence._bounded_mean import as_losses

_STAKES = (np.arange(16) + 0.5) / 16


class MeanGambler:
    """Bets that losses are above a limit; the average wealth of gamblers with fixed stakes.

    Parameters
    ----------
    limit : float in (0, bound)
        Mean that is tested.
    bound : float
        Largest loss that is possible.

    Raises
    ------
    ValueError
        If ``limit`` is outside (0, bound).
    """

    def __init__(self, limit: float, bound: float = 1.0) -> None:
        if not 0 < limit < bound:
            raise ValueError(f"limit must be in (0, bound) = (0, {bound:g}), got {limit!r}")
        self.limit, self.bound, self.totals = float(limit), float(bound), np.zeros(len(_STAKES))

    def bet(self, losses: np.ndarray) -> np.ndarray:
        """Take in losses (k,) in order of time and return the log wealth (k,) after each."""
        # A stake of 1 / limit would lose all at a loss of 0; these are shares of it.
        gains = np.log1p(_STAKES * (losses[:, None] / self.limit - 1))
        totals = self.totals + np.cumsum(gains, axis=0)
        if len(totals):
            self.totals = totals[-1]
        wealth: np.ndarray = np.logaddexp.reduce(totals, axis=1) - np.log(len(_STAKES))
        return wealth


def mean_martingale(losses: Any, limit: float, bound: float = 1.0, log: bool = False) -> Any:
    """Return the wealth of a gambler who bets that the mean loss is above ``limit``.

    The wealth starts at 1. If every loss, given those before it, has a mean of at most
    ``limit``, it ever reaches c with probability at most 1/c (Ville), however long one watches.

    Parameters
    ----------
    losses : array of shape (t,)
        In [0, bound], in order of time.
    limit : float in (0, bound)
        Mean that is still acceptable.
    bound : float
        Largest loss that is possible.
    log : bool
        Return the natural logarithm of the wealth, which cannot overflow.

    Returns
    -------
    array of shape (t,)
        Wealth after each loss, of the kind of ``losses``.

    Raises
    ------
    ValueError
        If ``losses`` is not 1-d.

    References
    ----------
    Waudby-Smith and Ramdas (2024), Estimating means of bounded random variables by betting,
    arXiv:2010.09686.

    Examples
    --------
    >>> bool(mean_martingale([1, 0, 1, 1, 1, 0, 1, 1], limit=0.2)[-1] > 100)
    True
    """
    gambler, values = MeanGambler(limit, bound), as_losses(losses, bound)
    if values.ndim != 1:
        raise ValueError(f"losses must be 1-d, in order of time, got shape {values.shape}")
    log_wealth = gambler.bet(values)
    with np.errstate(over="ignore"):
        return restore(log_wealth if log else np.exp(log_wealth), losses)
