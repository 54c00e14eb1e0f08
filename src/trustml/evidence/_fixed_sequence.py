"""Tests in an order that was fixed before the data: no price for their number."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.validation import restore
from trustml.evidence._checks import as_pvalues, check_count, check_probability


def fixed_sequence(p: Any, alpha: float, starts: int = 1) -> Any:
    """Reject from each start onwards until the first p-value that is too large.

    Any false rejection at all has probability at most ``alpha``. One start suits a sequence in
    which, if anything can be rejected, the first can; several, spread evenly, share ``alpha``
    and forgive a bad beginning.

    Parameters
    ----------
    p : array of shape (m,)
        p-values, under any dependence, in an order chosen without these data: the most promising
        first.
    alpha : float in (0, 1)
        Family-wise error rate allowed.
    starts : int
        Number of starts, 1..m; each tests at ``alpha / starts`` and runs on to the end.

    Returns
    -------
    bool array of shape (m,)
        True = rejected.

    Raises
    ------
    ValueError
        If there are more starts than p-values.

    References
    ----------
    Angelopoulos, Bates, Candès, Jordan and Lei (2021), Learn then test, arXiv:2110.01052
    (algorithm 1).

    Examples
    --------
    >>> fixed_sequence([0.01, 0.04, 0.2, 0.001], alpha=0.05)
    array([ True,  True, False, False])
    >>> fixed_sequence([0.01, 0.04, 0.2, 0.001], alpha=0.05, starts=2)
    array([ True, False, False, False])
    """
    values, starts = as_pvalues(p), check_count(starts, "starts")
    if starts > len(values):
        raise ValueError(f"starts must be at most the number of p-values, {len(values)}")
    passed = values <= check_probability(alpha, "alpha") / starts
    rejected = np.zeros(len(values), dtype=bool)
    for first in np.arange(starts) * len(values) // starts:
        rejected[first:] |= np.logical_and.accumulate(passed[first:])
    return restore(rejected, p)
