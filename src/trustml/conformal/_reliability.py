"""Calibration of probabilities: reliability, expected calibration error, and a test of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trustml.conformal._labels import columns_of
from trustml.core.random import RandomState, numpy_generator
from trustml.core.results import Result
from trustml.core.validation import check_choice, check_finite, check_positive_int, to_numpy
from trustml.evidence import TestResult, clopper_pearson


@dataclass(frozen=True, eq=False, repr=False)
class Reliability(Result):
    """Accuracy against confidence, bin by bin; empty bins are left out.

    Attributes
    ----------
    low, high : ndarrays of shape (b,)
        Ends of the bins of confidence.
    n : ndarray of shape (b,)
        Rows of each.
    confidence, accuracy : ndarrays of shape (b,)
        Mean probability of the predicted label, and the share that was right.
    accuracy_low, accuracy_high : ndarrays of shape (b,)
        Clopper-Pearson interval of the accuracy.
    level : float
        Confidence level of each interval.
    """

    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    accuracy_low: np.ndarray
    accuracy_high: np.ndarray
    level: float

    def _columns(self) -> dict[str, Any]:
        names = ("low", "high", "n", "confidence", "accuracy", "accuracy_low", "accuracy_high")
        return {name: getattr(self, name) for name in names}


def reliability(
    y_true: Any,
    probabilities: Any,
    n_bins: int = 15,
    strategy: str = "uniform",
    classes: Any = None,
    level: float = 0.95,
) -> Reliability:
    """Return accuracy against the confidence in the predicted label.

    Parameters
    ----------
    y_true : array of shape (n,)
        Labels.
    probabilities : array of shape (n, c)
        Class probabilities.
    n_bins : int
        Bins of confidence.
    strategy : {"uniform", "quantile"}
        Bins of equal width, or of equal numbers of rows.
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.
    level : float in (0, 1)
        Confidence level of each bin's interval.

    Returns
    -------
    Reliability

    Examples
    --------
    >>> reliability([0, 1], [[0.9, 0.1], [0.9, 0.1]]).accuracy
    array([0.5])
    """
    p, index = probabilities_and_columns(y_true, probabilities, classes)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == index
    code, edges = bins(confidence, n_bins, strategy)
    n = np.bincount(code, minlength=len(edges) - 1)
    kept = n > 0
    hits = np.bincount(code, weights=right, minlength=len(n))[kept].astype(int)
    mean = np.bincount(code, weights=confidence, minlength=len(n))[kept] / n[kept]
    ends = np.array(
        [tuple(clopper_pearson(k, m, level)) for k, m in zip(hits, n[kept], strict=True)]
    )
    return Reliability(
        edges[:-1][kept], edges[1:][kept], n[kept], mean, hits / n[kept], ends[:, 0], ends[:, 1],
        float(level),
    )  # fmt: skip


def ece(
    y_true: Any,
    probabilities: Any,
    n_bins: int = 15,
    classwise: bool = False,
    strategy: str = "uniform",
    classes: Any = None,
) -> float:
    """Return the expected calibration error: mean over rows of abs(accuracy - confidence) of a bin.

    Biased upwards: perfectly calibrated probabilities show about sqrt(bins / rows) times a
    constant. `calibration_test` says whether an error is more than that.

    Parameters
    ----------
    y_true : array of shape (n,)
        Labels.
    probabilities : array of shape (n, c)
        Class probabilities.
    n_bins : int
        Bins of confidence.
    classwise : bool
        False: of the predicted label. True: of every class's probability, averaged over classes.
    strategy : {"uniform", "quantile"}
        Bins of equal width, or of equal numbers of rows.
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.

    Returns
    -------
    float
        In [0, 1].

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks,
    arXiv:1706.04599. Kull et al. (2019), Beyond temperature scaling, arXiv:1910.12656.

    Examples
    --------
    >>> ece([0, 1], [[1.0, 0.0], [1.0, 0.0]])
    0.5
    """
    p, index = probabilities_and_columns(y_true, probabilities, classes)
    scores, hits = _events(p, index, classwise)
    return _mean_error(scores, hits, _codes(scores, n_bins, strategy))


def calibration_test(
    y_true: Any,
    probabilities: Any,
    n_bins: int = 15,
    classwise: bool = False,
    strategy: str = "quantile",
    n_resamples: int = 999,
    classes: Any = None,
    random_state: RandomState = None,
) -> TestResult:
    """Test that the probabilities are calibrated, by labels drawn from the probabilities.

    Under the null the true labels are one more such draw, so the p-value is exact: the rank of
    the observed calibration error among the drawn ones.

    Parameters
    ----------
    y_true : array of shape (n,)
        Labels.
    probabilities : array of shape (n, c)
        Class probabilities, rows summing to one.
    n_bins : int
        Bins of confidence.
    classwise : bool
        As in `ece`.
    strategy : {"uniform", "quantile"}
        As in `ece`.
    n_resamples : int
        Draws; the smallest p-value is 1 / (draws + 1).
    classes : array of shape (c,) or None
        Labels in the order of the columns; None: 0..c-1.
    random_state : int, Generator or None
        Seed of the draws.

    Returns
    -------
    TestResult
        ``statistic`` is the calibration error, ``effect_size`` it minus the mean of the drawn
        ones: an estimate without the bias of `ece`.

    References
    ----------
    Bröcker and Smith (2007), Increasing the reliability of reliability diagrams.

    Examples
    --------
    >>> found = calibration_test([1] * 30, [[0.9, 0.1]] * 30, random_state=0)
    >>> found.p_value
    0.001
    """
    p, index = probabilities_and_columns(y_true, probabilities, classes)
    count, rng = check_positive_int(n_resamples, "n_resamples"), numpy_generator(random_state)
    scores, hits = _events(p, index, classwise)
    cumulated = p.cumsum(axis=1)
    cumulated /= cumulated[:, -1:]

    codes, drawn = _codes(scores, n_bins, strategy), np.empty(count)
    observed = _mean_error(scores, hits, codes)
    for b in range(count):
        label = (rng.random((len(p), 1)) > cumulated).sum(axis=1)
        drawn[b] = _mean_error(scores, _events(p, label, classwise)[1], codes)
    p_value = (1 + np.count_nonzero(drawn >= observed * (1 - 1e-12))) / (count + 1)
    kind = "classwise" if classwise else "top label"
    effect = observed - float(drawn.mean())
    return TestResult(observed, float(p_value), effect, f"calibration error, {kind}", (len(p),))


def probabilities_and_columns(
    y_true: Any, probabilities: Any, classes: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (n, c) in float64 and the labels' columns (n,).

    Returns
    -------
    tuple of ndarray

    Raises
    ------
    ValueError
        If these are no probabilities, or labels do not fit.
    """
    p = np.asarray(to_numpy(probabilities), dtype=np.float64)
    if p.ndim != 2 or p.shape[1] < 2 or len(p) == 0:
        raise ValueError(
            f"probabilities must be (n, c) with rows and at least 2 classes, got {p.shape}; the "
            "order is (y_true, probabilities)"
        )
    check_finite(p, "probabilities")
    if p.min() < -1e-6 or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError(
            "probabilities must be at least 0 with rows summing to 1; are these logits?"
        )
    return p, columns_of(y_true, p.shape[0], p.shape[1], classes)


def _events(p: np.ndarray, index: np.ndarray, classwise: bool) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of events (n, k) and whether they happened."""
    if classwise:
        return p, index[:, None] == np.arange(p.shape[1])
    return p.max(axis=1)[:, None], (p.argmax(axis=1) == index)[:, None]


def bins(scores: np.ndarray, n_bins: int, strategy: str) -> tuple[np.ndarray, np.ndarray]:
    """Bin of each score, right ends included, and the edges."""
    check_choice(strategy, "strategy", ("uniform", "quantile"))
    count = check_positive_int(n_bins, "n_bins")
    if strategy == "uniform":
        edges = np.linspace(0, 1, count + 1)
    else:
        inner = np.quantile(scores, np.linspace(0, 1, count + 1)[1:-1], method="inverted_cdf")
        edges = np.unique(np.concatenate([[0.0], inner, [1.0]]))
    return np.searchsorted(edges[1:-1], scores, side="left"), edges


def _codes(scores: np.ndarray, n_bins: int, strategy: str) -> np.ndarray:
    """Bin of every event's probability, apart for each column."""
    return np.stack([bins(column, n_bins, strategy)[0] for column in scores.T], axis=1)


def _mean_error(scores: np.ndarray, hits: np.ndarray, codes: np.ndarray) -> float:
    """Mean over columns of the sum over bins of |hits - probability| / n."""
    gaps = hits - scores
    errors = [
        np.abs(np.bincount(codes[:, k], weights=gaps[:, k])).sum() for k in range(gaps.shape[1])
    ]
    return float(np.mean(errors) / len(gaps))
