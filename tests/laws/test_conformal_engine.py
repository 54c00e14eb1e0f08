"""Predictors that ask the engine for leave-one-out models keep their coverage over resplits."""

import numpy as np
import pytest
from scipy.stats import binom, kstest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

import trustml
from trustml.conformal import FullRegressor, metrics


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
