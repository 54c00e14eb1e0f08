"""Clustered sets: coverage within each cluster, from fewer rows than class by class."""

import numpy as np
import pytest

import trustml
from trustml.conformal import ClusteredClassifier, SplitClassifier, metrics

RESPLITS, CLASSES, ALPHA = 200, 20, 0.1
STORED = trustml.precomputed("probabilities", class_names=[str(k) for k in range(CLASSES)])


def rows(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Even classes are easy, odd ones hard; the other classes share what is left."""
    y = rng.integers(CLASSES, size=n)
    own = np.where(y % 2, rng.beta(2, 4, size=n), rng.beta(20, 2, size=n))
    p = rng.dirichlet(np.ones(CLASSES), size=n)
    p[np.arange(n), y] = 0
    p *= ((1 - own) / p.sum(axis=1))[:, None]
    p[np.arange(n), y] = own
    return p, y


@pytest.mark.filterwarnings("ignore:groups with too few:trustml.warnings.CoverageWarning")
def test_clusters_are_covered_and_the_gap_is_between_marginal_and_class() -> None:
    by_cluster, gaps, sizes = [], [], []
    for seed in range(RESPLITS):
        rng = np.random.default_rng(seed)
        (p_cal, y_cal), (p, y) = rows(rng, 600), rows(rng, 1000)
        predictors = [
            SplitClassifier(STORED),
            SplitClassifier(STORED, condition="class"),
            ClusteredClassifier(STORED, n_clusters=2, share=0.5, random_state=seed),
        ]
        sets = [cp.fit(p_cal, y_cal).predict_set(p, ALPHA) for cp in predictors]
        gaps.append([metrics.coverage_gap(y, found, groups=y) for found in sets])
        sizes.append([metrics.set_size(found) for found in sets])
        held = sets[2][np.arange(len(y)), y]
        clusters = predictors[2].clusters_[y]
        # Numbers of clusters are arbitrary; the easy one holds class 0.
        easy = clusters == predictors[2].clusters_[0]
        by_cluster.append([held[easy].mean(), held[~easy].mean()])
    mean = np.mean(by_cluster, axis=0)
    error = np.std(by_cluster, axis=0, ddof=1) / np.sqrt(RESPLITS)
    assert (mean >= 1 - ALPHA - 3 * error).all()
    # At most the rank's step above: clusters calibrate on about 150 rows.
    assert (mean <= 1 - ALPHA + 1 / 100 + 3 * error).all()
    marginal, by_class, clustered = np.mean(gaps, axis=0)
    assert clustered < marginal - 0.02
    assert np.mean(sizes, axis=0)[2] < np.mean(sizes, axis=0)[1]
    assert clustered < by_class
