"""The Hoeffding-Bentkus p-value of the mean of bounded losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trustml.core.validation import restore, to_numpy
from trustml.evidence._checks import check_count, check_probability


def hoeffding_bentkus_pvalue(risk: Any, n: Any, alpha: float) -> Any:
    """Return a p-value of "the true mean loss exceeds ``alpha``", for losses in [0, 1].

    The smaller of Hoeffding's bound in its tight (relative entropy) form and Bentkus's.

    Parameters
    ----------
    risk : float in [0, 1], or array of shape (m,)
        Mean of n independent losses in [0, 1].
    n : int
        Number of losses.
    alpha : float in (0, 1)
        Level of risk that is tested; rejecting means the risk is at most ``alpha``.

    Returns
    -------
    float, or array of shape (m,)
        p-value in [0, 1].

    Raises
    ------
    ValueError
        If ``risk`` is not in [0, 1].

    References
    ----------
    Bates, Angelopoulos, Lei, Malik and Jordan (2021), Distribution-free, risk-controlling
    prediction sets, arXiv:2101.02703.

    Examples
    --------
    >>> hoeffding_bentkus_pvalue(risk=0.05, n=200, alpha=0.1) < 0.05
    True
    """
    trials, level = check_count(n, "n"), check_probability(alpha, "alpha")
    risks = to_numpy(risk).astype(np.float64)
    if not ((risks >= 0) & (risks <= 1)).all():
        raise ValueError(f"risk must be a mean of losses in [0, 1], got {risk!r}; rescale them")
    p = hoeffding_bentkus(risks, trials, level)
    return float(p) if p.ndim == 0 else restore(p, risk)


def hoeffding_bentkus(risks: np.ndarray, n: int, levels: Any) -> np.ndarray:
    """Return the p-values of checked means against levels in (0, 1] that broadcast with them."""
    from scipy.special import bdtr, rel_entr

    entropy = rel_entr(risks, levels) + rel_entr(1 - risks, 1 - levels)
    # Rounding first: n times a mean of n zeros and ones is whole but for a few ulp.
    bentkus = math.e * bdtr(np.ceil(np.round(n * risks, 7)), n, levels)
    p = np.minimum(1.0, np.minimum(np.exp(-n * entropy), bentkus))
    return np.where(risks >= levels, 1.0, p)
