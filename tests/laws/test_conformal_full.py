"""Full conformal classification without refits: near the refits, and valid."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

import trustml
from trustml.conformal import FullClassifier, metrics


@pytest.fixture(scope="module")
def digits() -> tuple:
    """Fifteen features, fitted to all rows of the pool: no row is treated otherwise."""
    X, y = load_digits(return_X_y=True)
    return PCA(15, random_state=0).fit_transform(X / 16), y


def fitted(X: np.ndarray, y: np.ndarray, rows: np.ndarray, decay: float = 0.01) -> object:
    C = 1 / (decay * len(rows))
    estimator = LogisticRegression(C=C, tol=1e-9, solver="newton-cholesky").fit(X[rows], y[rows])
    return trustml.wrap(estimator, train=(X[rows], y[rows]))


@pytest.mark.parametrize(("n", "points", "bound"), [(100, 6, 0.01), (300, 4, 0.001)])
def test_p_values_are_those_of_refits(digits: tuple, n: int, points: int, bound: float) -> None:
    X, y = digits
    order = np.random.default_rng(0).permutation(len(y))
    full = FullClassifier(fitted(X, y, order[:n]), "ordinary").fit()
    test = X[order[n : n + 200]]
    found = full.diagnose(test, points)
    assert found.mean_gap <= bound
    assert found.agreement(0.1) >= 0.95


def test_coverage_on_digits_with_a_hundred_rows(digits: tuple) -> None:
    X, y = digits
    rng, covered, sizes = np.random.default_rng(1), [], []
    for _ in range(10):
        order = rng.permutation(len(y))
        full = FullClassifier(fitted(X, y, order[:100])).fit()
        sets = full.predict_set(X[order[100:160]], 0.1)
        covered.append(metrics.coverage(y[order[100:160]], sets))
        sizes.append(metrics.set_size(sets))
    assert np.mean(covered) >= 0.88
    assert np.mean(sizes) <= 1.5  # split conformal on halves: above 2


def test_coverage_over_resplits() -> None:
    # One new row a resplit: the hits are binomial, and at least 1 - alpha were training exact.
    X, y = load_iris(return_X_y=True)
    X = X + np.random.default_rng(0).normal(scale=0.5, size=X.shape)
    rng, alpha, resplits, hits = np.random.default_rng(2), 0.2, 200, Counter()
    for _ in range(resplits):
        order = rng.permutation(len(y))
        full = FullClassifier(fitted(X, y, order[:30]), damping=0.0).fit()
        for score in ("deleted", "ordinary"):
            sets = full.set_params(score=score).predict_set(X[order[30:31]], alpha)
            hits[score] += int(sets[0, y[order[30]]])
    assert min(hits.values()) >= binom.ppf(1e-4, resplits, 1 - alpha)
