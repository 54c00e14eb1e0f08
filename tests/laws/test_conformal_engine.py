"""Predictors that ask the engine for leave-one-out models keep their coverage over resplits."""

import numpy as np
import pytest
from scipy.stats import binom, kstest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, Ridge

import trustml
from trustml.conformal import CrossClassifier, FullRegressor, metrics


@pytest.fixture(scope="module")
def diabetes() -> tuple:
    X, y = load_diabetes(return_X_y=True)
    return X[:, 2:5], y


def ridge(data: tuple, rows: np.ndarray) -> trustml.Model:
    X, y = data[0][rows], data[1][rows]
    return trustml.wrap(Ridge(alpha=0.1).fit(X, y), train=(X, y))


def test_full_regression_over_resplits(diabetes: tuple) -> None:
    # One new row a resplit: for least squares training is exact, so its p-value is super-uniform
    # and the hits are binomial with at least 1 - alpha. (No row ties with another here.)
    X, y = diabetes
    rng, alpha, resplits = np.random.default_rng(2), 0.2, 200
    p, hits = {"deleted": [], "ordinary": []}, []
    for _ in range(resplits):
        order = rng.permutation(len(y))
        full = FullRegressor(ridge(diabetes, order[:30]), damping=0.0).fit()
        new, value = X[order[30:31]], y[order[30:31]]
        for score, found in p.items():
            found.append(full.set_params(score=score).p_values(new, value)[0])
        ends = full.predict_interval(new, alpha)
        hits.append(metrics.coverage(value, ends))
    assert sum(hits) >= binom.ppf(1e-4, resplits, 1 - alpha)
    for found in p.values():
        # P(p <= t) <= t: the empirical distribution is not above the uniform one.
        assert kstest(found, "uniform", alternative="greater").pvalue > 1e-4
        assert binom.ppf(1e-4, resplits, 0.5) <= np.sum(np.array(found) <= 15 / 31)


def test_cross_conformal_classification_over_resplits() -> None:
    X, y = load_iris(return_X_y=True)
    X = X[:, 1:3] + np.random.default_rng(0).normal(scale=0.5, size=(150, 2))
    rng, alpha, covered = np.random.default_rng(3), 0.1, np.empty(200)
    for i in range(len(covered)):
        order = rng.permutation(len(y))
        train, test = order[:50], order[50:]
        fitted = LogisticRegression(solver="newton-cholesky").fit(X[train], y[train])
        model = trustml.wrap(fitted, train=(X[train], y[train]))
        cross = CrossClassifier(model, 4, "aps", damping=0.0, random_state=i).fit()
        covered[i] = metrics.coverage(y[test], cross.predict_set(X[test], alpha))
    # Proven: 1 - 2 alpha - sqrt(2 / 50). Seen on a stable model: 1 - alpha.
    assert covered.mean() > 1 - alpha - 4 * covered.std() / np.sqrt(len(covered))
    assert covered.mean() < 1 - alpha + 0.05
