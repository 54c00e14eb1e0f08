"""The conformal quantile, its rank in rational arithmetic."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np

from trustml.core.validation import check_alpha
from trustml.evidence._checks import as_vector
from trustml.warnings import CoverageWarning


def exact_alpha(alpha: Any) -> Fraction:
    """Read an error rate as the rational number that its author wrote.

    The shortest decimal of ``float(alpha)``, rounded to 1e-9: 0.1 is 1/10, not the binary
    number beside it. A single-precision 0.3 (also one that went through ``float``) is 3/10.

    Parameters
    ----------
    alpha : float, numpy or torch scalar, Fraction
        Error rate in (0, 1). A ``Fraction`` is taken as it is.

    Returns
    -------
    Fraction
        The exact rate.

    Raises
    ------
    ValueError
        If ``alpha`` is not in (0, 1), or so near an end that it rounds to it.

    Examples
    --------
    >>> import numpy as np
    >>> exact_alpha(np.float32(0.3))
    Fraction(3, 10)
    """
    number = check_alpha(alpha)
    if isinstance(alpha, Fraction):
        return alpha
    if isinstance(alpha, np.floating):
        decimal = np.format_float_positional(alpha)
    elif float(np.float32(number)) == number:
        # Only one double in 2^29 is a float32 by chance: this one was written in float32.
        decimal = np.format_float_positional(np.float32(number))
    else:
        decimal = repr(number)
    exact = round(Fraction(decimal), 9)
    if not 0 < exact < 1:
        raise ValueError(f"alpha must be in (0, 1) after rounding to 1e-9, got {alpha!r}")
    return exact


def conformal_rank(n: int, alpha: Any) -> int:
    """Return ``ceil((n + 1)(1 - alpha))``, exactly; more than ``n`` when n is too small.

    Parameters
    ----------
    n : int
        Number of calibration scores.
    alpha : float in (0, 1)
        Allowed error rate.

    Returns
    -------
    int
        Rank, from 1, of the calibration score that is the threshold.

    Examples
    --------
    >>> conformal_rank(9, 0.1), conformal_rank(9, 0.7)  # in floats the second would be 4
    (9, 3)
    """
    return math.ceil((n + 1) * (1 - exact_alpha(alpha)))


def quantile(scores: Any, alpha: Any) -> float:
    """Return the ``ceil((n + 1)(1 - alpha))``-th smallest score, +inf if there is none.

    A new score that is exchangeable with these n exceeds it with probability at most
    ``alpha``, whatever the distribution.

    Parameters
    ----------
    scores : array of shape (n,)
        Calibration scores, higher = stranger; infinities may stand, NaN may not.
    alpha : float in (0, 1)
        Allowed error rate, read by `exact_alpha`.

    Returns
    -------
    float
        The threshold: accept what scores at most this.

    Warns
    -----
    CoverageWarning
        If n is too small for ``alpha``; the answer then is +inf.

    References
    ----------
    Vovk, Gammerman and Shafer (2005), Algorithmic Learning in a Random World, chapter 2.

    Examples
    --------
    >>> quantile([0.3, 0.1, 0.2, 0.4], alpha=0.2)
    0.4
    """
    values = as_vector(scores, "scores")
    rank = conformal_rank(len(values), alpha)
    if rank > len(values):
        needed = math.ceil(1 / exact_alpha(alpha)) - 1
        warnings.warn(
            f"{len(values)} calibration scores cannot give coverage {1 - float(alpha):g}; "
            f"at least {needed} are needed. The threshold is +inf: everything is accepted.",
            CoverageWarning,
            stacklevel=2,
        )
        return math.inf
    return float(np.partition(values, rank - 1)[rank - 1])
