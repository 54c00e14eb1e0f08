"""Prediction sets calibrated by clusters of classes."""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import numpy as np
from sklearn.cluster import KMeans

from trustml.conformal._calibration import CalibrationScores
from trustml.conformal._rowwise import PValueClassifier
from trustml.conformal._score import ScoreFunction
from trustml.conformal._scored import rows_of
from trustml.core.random import RandomState, numpy_generator, row_uniforms
from trustml.core.validation import check_positive_int
from trustml.model import Model
from trustml.warnings import CoverageWarning

_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)  # quantiles of a class's scores that place it
_RARE = 9  # rows below which the last of them is no quantile of nine tenths
_HALF_SHARE = 75  # classes at which half of the rows go to the clustering


class ClusteredClassifier(PValueClassifier):
    """Sets of labels that cover alike for classes whose scores are alike.

    Between the marginal guarantee, which may leave a class uncovered, and that for every class,
    which needs many rows of each: classes are clustered by the quantiles of their scores on one
    part of the calibration rows, and each cluster is calibrated on the rest. Classes with too few
    rows to place form the null cluster, which takes the marginal threshold.

    Parameters
    ----------
    model : Model or what `trustml.wrap` takes
        A classifier.
    score : {"lac", "aps", "raps", "saps", "topk", "margin", "entmax", "knn"}, Score or callable
        Strangeness of a class.
    n_clusters : int or "auto"
        "auto": half of the rows for the clustering of the smallest class that has 9 or more; with
        fewer than 2 the whole is calibrated as one.
    share : float in (0, 1) or "auto"
        Part of the calibration rows that the clustering uses up. "auto": K / (75 + K), for K
        classes that have enough rows.
    random_state : int, Generator or None
        Seed of randomised scores, of the split (by a hash of the row) and of k-means.

    Attributes
    ----------
    clusters_ : int ndarray of shape (c,)
        Cluster of each class, -1 for the null cluster.
    n_clusters_ : int
        Clusters beside the null cluster.
    classes_ : array of shape (c,)
        Labels in the order of the columns.
    n_calibration_ : int
        Number of calibration rows, those of the clustering included.

    References
    ----------
    Ding, Angelopoulos, Bates, Jordan and Tibshirani (2023), Class-conditional conformal prediction
    with many classes, arXiv:2306.09335.

    Examples
    --------
    >>> import numpy as np
    >>> import trustml
    >>> p = np.random.default_rng(0).dirichlet(np.ones(20), size=2000)
    >>> y = p.argmax(1)
    >>> cp = ClusteredClassifier(trustml.precomputed("probabilities"), random_state=0).fit(p, y)
    >>> cp.predict_set(p[:2], alpha=0.1).shape, cp.n_clusters_
    ((2, 20), 8)
    """

    def __init__(
        self,
        model: Any,
        score: str | ScoreFunction = "lac",
        n_clusters: int | str = "auto",
        share: float | str = "auto",
        random_state: RandomState = None,
    ) -> None:
        self.model = model
        self.score = score
        self.n_clusters = n_clusters
        self.share = share
        self.random_state = random_state

    def _calibrate(self, model: Model, X: Any, y: np.ndarray, scores: np.ndarray) -> None:
        classes = np.asarray(model.classes_)
        counts = np.bincount(y, minlength=len(classes))
        share, n_clusters = self._plan(counts)
        seed = int(numpy_generator(self.random_state).integers(2**32))
        self.clusters_, self.n_clusters_ = np.full(len(classes), -1), 0
        kept = np.ones(len(y), dtype=bool)
        if n_clusters >= 2:
            placing = row_uniforms(rows_of(X), seed) < share
            found = _place(scores[placing], y[placing], len(classes), n_clusters, seed)
            if found is not None:
                kept, self.clusters_, self.n_clusters_ = ~placing, found, n_clusters
            elif self.n_clusters != "auto":
                warnings.warn(
                    f"fewer than {n_clusters} classes have {_RARE} of the {placing.sum()} rows for "
                    "the clustering: all classes share one threshold. Calibrate on more rows, or "
                    "ask for fewer clusters.",
                    CoverageWarning,
                    stacklevel=3,
                )
        _warn_of_absent(classes[counts == 0])
        placed = kept & (self.clusters_[y] >= 0)
        labels = np.arange(self.n_clusters_)
        self._by_cluster = CalibrationScores(scores[placed], self.clusters_[y[placed]], labels)
        self._marginal = CalibrationScores(scores[kept])

    def _limits(self, X: Any, n: int, alphas: list[Fraction]) -> np.ndarray:
        limits = self._by_cluster.thresholds(alphas, np.arange(self.n_clusters_), stacklevel=3)
        null = np.flatnonzero(self.clusters_ < 0)
        # The last row, cluster -1, is the null cluster's; it warns only where it is asked.
        limits[-1] = self._marginal.thresholds(
            alphas, np.zeros(len(null), dtype=int), stacklevel=3
        )[0]
        by_class: np.ndarray = limits[self.clusters_][None]
        return by_class

    def _p_values(self, X: Any, scores: np.ndarray) -> np.ndarray:
        p, null = self._by_cluster.p_values(scores, self.clusters_[None]), self.clusters_ < 0
        p[:, null] = self._marginal.p_values(scores[:, null], np.zeros((1, 1), dtype=int))
        return p

    def _plan(self, counts: np.ndarray) -> tuple[float, int]:
        """Return the share of rows for the clustering, and the number of clusters."""
        least = max(counts.min(), _RARE)
        enough = np.sum(counts >= least)
        share = enough / (_HALF_SHARE + enough)
        if self.share != "auto":
            if isinstance(self.share, str) or not 0 < self.share < 1:
                raise ValueError(f"share must be in (0, 1) or 'auto', got {self.share!r}")
            share = float(self.share)
        if self.n_clusters == "auto":
            return share, int(share * least) // 2
        return share, check_positive_int(self.n_clusters, "n_clusters")


def _place(
    scores: np.ndarray, y: np.ndarray, n_classes: int, n_clusters: int, seed: int
) -> np.ndarray | None:
    """Cluster (n_classes,) of each class, -1 for rare ones; None if too few can be placed."""
    counts = np.bincount(y, minlength=n_classes)
    common = np.flatnonzero(counts >= _RARE)
    if len(common) < n_clusters:
        return None
    places = [np.quantile(scores[y == k], _LEVELS, method="inverted_cdf") for k in common]
    means = KMeans(n_clusters, n_init=10, random_state=seed)
    clusters = np.full(n_classes, -1)
    clusters[common] = means.fit_predict(np.stack(places), sample_weight=np.sqrt(counts[common]))
    return clusters


def _warn_of_absent(classes: np.ndarray) -> None:
    if len(classes):
        warnings.warn(
            f"classes without calibration rows: {classes.tolist()}; they take the threshold of all "
            "rows together, and no coverage is promised for them.",
            CoverageWarning,
            stacklevel=4,
        )
