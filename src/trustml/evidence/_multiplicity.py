"""Many tests at once: which may be rejected, at what error rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trustml.core.validation import check_choice, restore
from trustml.evidence._checks import as_pvalues, check_probability

# p k / m and q meet exactly for ranks over n + 1; a few ulp must not decide such a tie.
TIE = 1 + 1e-12


def benjamini_hochberg(p: Any, q: float) -> Any:
    """Reject so that the expected share of false rejections is at most ``q``.

    Parameters
    ----------
    p : array of shape (m,)
        p-values, independent or positively dependent (conformal p-values of one calibration
        set are).
    q : float in (0, 1)
        False discovery rate allowed.

    Returns
    -------
    bool array of shape (m,)
        True = rejected (a discovery).

    References
    ----------
    Benjamini and Hochberg (1995), Controlling the false discovery rate.
    Bates, Candès, Lei, Romano and Sesia (2023), Testing for outliers with conformal p-values.

    Examples
    --------
    >>> benjamini_hochberg([0.01, 0.02, 0.9], q=0.05)
    array([ True,  True, False])
    """
    return _reject(p, q, "bh")


def benjamini_yekutieli(p: Any, q: float) -> Any:
    """Reject at false discovery rate ``q`` under any dependence of the p-values.

    Parameters
    ----------
    p : array of shape (m,)
        p-values.
    q : float in (0, 1)
        False discovery rate allowed.

    Returns
    -------
    bool array of shape (m,)
        True = rejected.

    References
    ----------
    Benjamini and Yekutieli (2001), The control of the false discovery rate in multiple
    testing under dependency.

    Examples
    --------
    >>> benjamini_yekutieli([0.01, 0.02, 0.9], q=0.05)
    array([False, False, False])
    """
    return _reject(p, q, "by")


def storey(p: Any, q: float, tuning: float = 0.5) -> Any:
    """Reject at false discovery rate ``q``, with the share of true nulls estimated.

    More discoveries than Benjamini-Hochberg where many hypotheses are false. The estimate,
    (1 + number of p-values above ``tuning``) / (m (1 - ``tuning``)), errs to the safe side.

    Parameters
    ----------
    p : array of shape (m,)
        p-values, independent or conformal ones of one calibration set.
    q : float in (0, 1)
        False discovery rate allowed.
    tuning : float in (0, 1)
        P-values above it are taken for those of true nulls, and are never rejected.

    Returns
    -------
    bool array of shape (m,)
        True = rejected.

    References
    ----------
    Storey, Taylor and Siegmund (2004), Strong control, conservative point estimation and
    simultaneous conservative consistency of false discovery rates.
    Bates, Candès, Lei, Romano and Sesia (2023), Testing for outliers with conformal p-values,
    arXiv:2104.08279, for conformal p-values.

    Examples
    --------
    >>> storey([0.01, 0.02, 0.03, 0.9], q=0.05)
    array([ True,  True,  True, False])
    """
    limit = check_probability(q, "q")
    adjusted = _storey(as_pvalues(p), check_probability(tuning, "tuning"))
    return restore(adjusted <= limit * TIE, p)


def holm(p: Any, alpha: float) -> Any:
    """Reject so that any false rejection at all has probability at most ``alpha``.

    Parameters
    ----------
    p : array of shape (m,)
        p-values, under any dependence.
    alpha : float in (0, 1)
        Family-wise error rate allowed.

    Returns
    -------
    bool array of shape (m,)
        True = rejected.

    References
    ----------
    Holm (1979), A simple sequentially rejective multiple test procedure.

    Examples
    --------
    >>> holm([0.01, 0.02, 0.9], alpha=0.05)
    array([ True,  True, False])
    """
    return _reject(p, alpha, "holm")


def bonferroni(p: Any, alpha: float) -> Any:
    """Reject the p-values of at most ``alpha / m``; Holm rejects these and more.

    Parameters
    ----------
    p : array of shape (m,)
        p-values, under any dependence.
    alpha : float in (0, 1)
        Family-wise error rate allowed.

    Returns
    -------
    bool array of shape (m,)
        True = rejected.

    Examples
    --------
    >>> bonferroni([0.01, 0.02, 0.9], alpha=0.05)
    array([ True, False, False])
    """
    return _reject(p, alpha, "bonferroni")


def adjust(p: Any, method: str = "holm") -> Any:
    """Return adjusted p-values: the smallest level at which each would be rejected.

    Parameters
    ----------
    p : array of shape (m,)
        p-values.
    method : {"bonferroni", "holm", "bh", "by", "storey"}
        The procedure.

    Returns
    -------
    array of shape (m,)
        Adjusted p-values in [0, 1], of the kind of ``p``.

    Examples
    --------
    >>> adjust([0.01, 0.02, 0.9], "holm")
    array([0.03, 0.04, 0.9 ])
    """
    return restore(_adjusted(as_pvalues(p), method), p)


def _reject(p: Any, level: float, method: str) -> Any:
    limit = check_probability(level, "alpha" if method in ("holm", "bonferroni") else "q")
    return restore(_adjusted(as_pvalues(p), method) <= limit * TIE, p)


def _adjusted(p: np.ndarray, method: str) -> np.ndarray:
    check_choice(method, "method", tuple(_METHODS))
    adjusted: np.ndarray = np.minimum(_METHODS[method](p), 1.0)
    return adjusted


def _step_up(p: np.ndarray) -> np.ndarray:
    """Min over k >= rank of m p_(k) / k."""
    m = len(p)
    order = np.argsort(p, kind="stable")
    raw = p[order] * m / np.arange(1, m + 1)
    out = np.empty(m)
    out[order] = np.minimum.accumulate(raw[::-1])[::-1]
    return out


def _step_down(p: np.ndarray) -> np.ndarray:
    """Max over k <= rank of (m - k + 1) p_(k)."""
    m = len(p)
    order = np.argsort(p, kind="stable")
    out = np.empty(m)
    out[order] = np.maximum.accumulate(p[order] * np.arange(m, 0, -1))
    return out


def _storey(p: np.ndarray, tuning: float = 0.5) -> np.ndarray:
    null_share = (1 + np.count_nonzero(p > tuning)) / (len(p) * (1 - tuning))
    # The proof needs the rejection region inside [0, tuning], and an adjusted value of 1
    # is never under a level.
    return np.where(p <= tuning, _step_up(p) * null_share, 1.0)


_METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bonferroni": lambda p: p * len(p),
    "holm": _step_down,
    "bh": _step_up,
    "by": lambda p: _step_up(p) * np.sum(1 / np.arange(1, len(p) + 1)),
    "storey": _storey,
}
