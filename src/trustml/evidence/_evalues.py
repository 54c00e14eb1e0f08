"""E-values: evidence whose expectation is at most 1 under the null, and what it is worth."""

from __future__ import annotations

from typing import Any

import numpy as np

from trustml.core.validation import restore, to_numpy
from trustml.evidence._bets import log_mixture
from trustml.evidence._checks import as_nonnegative, as_pvalues, as_vector, check_probability
from trustml.evidence._multiplicity import TIE, benjamini_hochberg


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

    Examples
    --------
    >>> e_to_p([0.5, 20.0])
    array([1.  , 0.05])
    """
    return restore(1 / np.maximum(_as_evalues(as_vector(e, "e")), 1.0), e)


def p_to_e(p: Any, kappa: float | None = 0.5) -> Any:
    """Return ``kappa * p ** (kappa - 1)``, an e-value that a p-value is worth.

    Parameters
    ----------
    p : array of shape (m,)
        p-values.
    kappa : float in (0, 1) or None
        Smaller pays more for very small p-values. None: the average over all of them,
        ``(1 - p + p log p) / (p log(p)^2)``, which is never far from the best.

    Returns
    -------
    array of shape (m,)
        e-values, +inf for p = 0, of the kind of ``p``.

    References
    ----------
    Vovk and Wang (2021), E-values: calibration, combination and applications, arXiv:1912.06116.

    Examples
    --------
    >>> p_to_e([0.25, 1.0])
    array([1. , 0.5])
    """
    values = as_pvalues(p)
    with np.errstate(divide="ignore", over="ignore"):
        if kappa is None:
            logs = [log_mixture(1, surprise) for surprise in (-np.log(values)).tolist()]
            return restore(np.exp(logs), p)
        kappa = check_probability(kappa, "kappa")
        return restore(kappa * values ** (kappa - 1), p)


def merge_evalues(e: Any, independent: bool = False) -> Any:
    """Return one e-value from several for the same hypothesis.

    Parameters
    ----------
    e : array of shape (k,) or (k, m)
        k e-values for each of m hypotheses, at least 0.
    independent : bool
        False: their mean, valid under any dependence. True: their product, for e-values that
        are independent, or each fair given those before it.

    Returns
    -------
    float, or array of shape (m,)
        Of the kind of ``e``.

    Raises
    ------
    ValueError
        If ``e`` has more than two axes.

    References
    ----------
    Vovk and Wang (2021), E-values: calibration, combination and applications, arXiv:1912.06116.

    Examples
    --------
    >>> merge_evalues([[4.0, 0.0], [2.0, 1.0]])
    array([3. , 0.5])
    """
    array = np.asarray(to_numpy(e))
    if array.ndim not in (1, 2):
        raise ValueError(f"e must be (k,) or (k, m), k e-values a hypothesis, got {array.shape}")
    values = _as_evalues(as_vector(array.ravel(), "e")).reshape(array.shape)
    merged = values.prod(axis=0) if independent else values.mean(axis=0)
    return float(merged) if array.ndim == 1 else restore(merged, e)


def e_benjamini_hochberg(e: Any, q: float) -> Any:
    """Reject at false discovery rate ``q`` by e-values, under any dependence between them.

    Parameters
    ----------
    e : array of shape (m,)
        e-values, at least 0.
    q : float in (0, 1)
        False discovery rate allowed.

    Returns
    -------
    bool array of shape (m,)
        True = rejected: the k largest, k the most for which all are at least m / (k q).

    References
    ----------
    Wang and Ramdas (2022), False discovery rate control with e-values, arXiv:2009.02824.

    Examples
    --------
    >>> e_benjamini_hochberg([100.0, 35.0, 0.5], q=0.05)
    array([ True,  True, False])
    """
    # With p = 1 / e the step-up rule is the same, and an e-value below 1 rejects nothing.
    return benjamini_hochberg(e_to_p(e), q)


def evalues(cal_scores: Any, scores: Any) -> Any:
    """Return ``(n + 1) s / (sum of calibration scores + s)`` for every new score s.

    The share that the new score has in the sum, of expectation 1 for a score that is
    exchangeable with the calibration scores. At most n + 1; large where s is much larger than
    they are on average.

    Parameters
    ----------
    cal_scores : array of shape (n,)
        Calibration scores, finite and at least 0; higher = stranger.
    scores : array of shape (m,)
        New scores.

    Returns
    -------
    array of shape (m,)
        e-values from 0 to n + 1, of the kind of ``scores``; 1 if all scores are zero.

    References
    ----------
    Balinsky and Balinsky (2024), Enhancing conformal prediction using e-test statistics,
    arXiv:2403.19082.

    Examples
    --------
    >>> evalues([1.0, 2.0, 3.0], [2.0, 14.0])
    array([1. , 2.8])
    """
    calibration = as_nonnegative(as_vector(cal_scores, "cal_scores"), "cal_scores")
    new = as_nonnegative(as_vector(scores, "scores"), "scores")
    total, n = calibration.sum() + new, len(calibration)
    share = np.divide(new, total, out=np.full(len(new), 1 / (n + 1)), where=total > 0)
    return restore((n + 1) * share, scores)


def discovery_evalues(cal_scores: Any, scores: Any, q: float) -> Any:
    """Return e-values by which `e_benjamini_hochberg` rejects what Benjamini-Hochberg would.

    A discovery that depends on how rows were split at random can be made stable: average these
    over several splits with `merge_evalues`, then reject; the false discovery rate still holds.
    Choose ``q`` here below the rate of that rejection (half of it, say), as an average over
    splits that disagree is smaller.

    Parameters
    ----------
    cal_scores : array of shape (n,)
        Calibration scores; higher = stranger.
    scores : array of shape (m,)
        New scores, of all hypotheses at once.
    q : float in (0, 1)
        Rate at which the threshold is found.

    Returns
    -------
    array of shape (m,)
        One value for the rows at or above the threshold, 0 for the others; over the true nulls
        the expected sum is at most their number. Of the kind of ``scores``.

    References
    ----------
    Bashari, Epstein, Romano and Sesia (2023), Derandomized novelty detection with FDR control
    via conformal e-values, arXiv:2302.07294.

    Examples
    --------
    >>> discovery_evalues(range(19), [50.0, 40.0, 3.0], q=0.1)
    array([20., 20.,  0.])
    """
    limit = check_probability(q, "q")
    calibration, new = as_vector(cal_scores, "cal_scores"), as_vector(scores, "scores")
    # Read from the lowest score up, the first threshold that is good enough is a stopping time.
    thresholds = np.unique(np.concatenate([calibration, new]))
    null = (1 + _at_least(calibration, thresholds)) / (len(calibration) + 1)
    found = _at_least(new, thresholds) / len(new)
    good = np.flatnonzero(null <= limit * TIE * found)
    if len(good) == 0:
        return restore(np.zeros(len(new)), scores)
    return restore(np.where(new >= thresholds[good[0]], 1 / null[good[0]], 0.0), scores)


def _at_least(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Numbers of values at or above each threshold."""
    return len(values) - np.searchsorted(np.sort(values), thresholds, side="left")


def _as_evalues(values: np.ndarray) -> np.ndarray:
    if values.min() < 0:
        raise ValueError(f"e-values are at least 0, got {values.min():g}; did you pass logs?")
    return values
