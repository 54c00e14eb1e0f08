"""Test martingales and e-values: evidence that may be watched while it grows."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.validation import restore
from trustml.evidence._checks import as_pvalues, as_vector, check_probability


def betting_martingale(p_values: Any, jump: float = 0.01, log: bool = False) -> Any:
    """Return the wealth of a gambler who bets against exchangeability (the simple jumper).

    Start with 1; the gambler bets that p-values are too small, too large, or stays out, and
    moves a share ``jump`` of the wealth between the three. Under exchangeability the wealth
    ever reaches c with probability at most 1/c, so an alarm at 20 is false at most 1 in 20
    times, however long one watches.

    Parameters
    ----------
    p_values : array of shape (m,)
        Conformal p-values in order of time, each against the examples before it (or one
        calibration set), best with ties broken at random.
    jump : float in (0, 1)
        Share of the wealth that is redistributed at each step.
    log : bool
        Return the natural logarithm of the wealth, which cannot overflow.

    Returns
    -------
    array of shape (m,)
        Wealth after each p-value, of the kind of ``p_values``.

    References
    ----------
    Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman (2021), Retrain or not retrain:
    conformal test martingales for change-point detection, arXiv:2102.10439.

    Examples
    --------
    >>> bool(betting_martingale([0.01] * 30)[-1] > 20)
    True
    """
    jump = check_probability(jump, "jump")
    values = as_pvalues(p_values, "p_values")
    slopes = np.array([-1.0, 0.0, 1.0])
    share, log_wealth = np.full(3, 1 / 3), np.empty(len(values))
    total = 0.0
    for i, p in enumerate(values):
        stakes = ((1 - jump) * share + jump / 3) * (1 + slopes * (p - 0.5))
        gain = stakes.sum()
        total += np.log(gain)
        share, log_wealth[i] = stakes / gain, total
    with np.errstate(over="ignore"):
        return restore(log_wealth if log else np.exp(log_wealth), p_values)


def e_to_p(e: Any) -> Any:
    """Return ``min(1, 1 / e)``, the p-value that an e-value is worth (Markov's inequality).

    Parameters
    ----------
    e : array of shape (m,)
        e-values (expectation at most 1 under the null), at least 0. The running maximum of a
        martingale may be given: the answer then holds at every time at once.

    Returns
    -------
    array of shape (m,)
        p-values in [0, 1], of the kind of ``e``.

    Raises
    ------
    ValueError
        If an e-value is negative.

    Examples
    --------
    >>> e_to_p([0.5, 20.0])
    array([1.  , 0.05])
    """
    values = as_vector(e, "e")
    if values.min() < 0:
        raise ValueError(f"e-values are at least 0, got {values.min():g}; did you pass logs?")
    return restore(1 / np.maximum(values, 1.0), e)


def p_to_e(p: Any, kappa: float = 0.5) -> Any:
    """Return ``kappa * p ** (kappa - 1)``, an e-value that a p-value is worth.

    Parameters
    ----------
    p : array of shape (m,)
        p-values.
    kappa : float in (0, 1)
        Smaller pays more for very small p-values.

    Returns
    -------
    array of shape (m,)
        e-values, +inf for p = 0, of the kind of ``p``.

    References
    ----------
    Vovk and Wang (2021), E-values: calibration, combination and applications.

    Examples
    --------
    >>> p_to_e([0.25, 1.0])
    array([1. , 0.5])
    """
    kappa = check_probability(kappa, "kappa")
    with np.errstate(divide="ignore"):
        return restore(kappa * as_pvalues(p) ** (kappa - 1), p)
