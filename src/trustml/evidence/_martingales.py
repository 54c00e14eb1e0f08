"""Test martingales: evidence against exchangeability that may be watched while it grows."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.validation import restore
from trustml.evidence._bets import Bet, as_bet
from trustml.evidence._checks import as_pvalues


def betting_martingale(p_values: Any, bet: str | Bet = "jumper", log: bool = False) -> Any:
    """Return the wealth of a gambler who bets against p-values that are independent and uniform.

    The wealth starts at 1. Under exchangeability it ever reaches c with probability at most 1/c
    (Ville), so an alarm at 100 is false at most 1 in 100 times, however long one watches.

    Parameters
    ----------
    p_values : array of shape (m,)
        Conformal p-values in order of time, each against all examples before it and with ties
        broken at random, as `online_pvalues` gives them. P-values against one fixed calibration
        set are not independent: their wealth grows without any change.
    bet : {"jumper", "composite", "power", "mixture", "plugin"} or Bet
        The strategy: `SimpleJumper`, `Composite`, `Power`, `SimpleMixture`, `PlugIn`.
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
    gambler = as_bet(bet).start()
    values = as_pvalues(p_values, "p_values").tolist()
    log_wealth = np.array([gambler.bet(p) for p in values])
    with np.errstate(over="ignore"):
        return restore(log_wealth if log else np.exp(log_wealth), p_values)
