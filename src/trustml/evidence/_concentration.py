"""p-values for the mean of bounded losses."""

from __future__ import annotations

import math
from typing import Any

from trustml.evidence._checks import check_count, check_probability


def hoeffding_bentkus_pvalue(risk: float, n: Any, alpha: float) -> float:
    """Return a p-value of "the true mean loss exceeds ``alpha``", for losses in [0, 1].

    The smaller of Hoeffding's bound in its tight (relative entropy) form and Bentkus's.

    Parameters
    ----------
    risk : float in [0, 1]
        Mean of n independent losses in [0, 1].
    n : int
        Number of losses.
    alpha : float in (0, 1)
        Level of risk that is tested; rejecting means the risk is at most ``alpha``.

    Returns
    -------
    float
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
    from scipy.special import bdtr

    trials = check_count(n, "n")
    level = check_probability(alpha, "alpha")
    risk = float(risk)
    if not 0 <= risk <= 1:
        raise ValueError(f"risk must be a mean of losses in [0, 1], got {risk!r}; rescale them")
    if risk >= level:
        return 1.0
    entropy = (1 - risk) * math.log((1 - risk) / (1 - level))
    if risk > 0:
        entropy += risk * math.log(risk / level)
    # Rounding first: n times a mean of n zeros and ones is whole but for a few ulp.
    bentkus = math.e * float(bdtr(math.ceil(round(trials * risk, 7)), trials, level))
    return min(1.0, math.exp(-trials * entropy), bentkus)
