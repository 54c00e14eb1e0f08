"""Logistic regression on digits: scores against sixty actual refits."""

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from trustml.influence import InfluenceFunctions, leave_one_out
from trustml.model import wrap

N, QUERIES, REFITS = 500, 100, 60


@pytest.fixture(scope="module")
def refits():
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))[: N + QUERIES]
    X, y = X[order] / 16, y[order]
    estimator = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(X[:N], y[:N])
    model = wrap(estimator, train=(X[:N], y[:N]))
    rows = rng.choice(N, REFITS, replace=False)
    Xq, yq = X[N:], y[N:]
    return model, rows, Xq, yq, leave_one_out(model, rows, Xq, yq)


@pytest.mark.parametrize("correction", ["leverage", "none"])
def test_scores_predict_refits(refits, correction):
    model, rows, Xq, yq, truth = refits
    inf = InfluenceFunctions(model, correction=correction).fit()
    scores = inf.scores(Xq, yq).values[:, rows]
    # The effect of each row on the mean loss of the queries, and every single pair.
    for predicted, actual in ((scores.mean(0), truth.mean(0)), (scores.ravel(), truth.ravel())):
        assert stats.pearsonr(predicted, actual)[0] >= 0.99
        assert stats.spearmanr(predicted, actual)[0] >= 0.97
        assert 0.85 <= np.polyfit(predicted, actual, 1)[0] <= 1.15


def test_the_correction_brings_the_slope_nearer_to_one(refits):
    model, rows, Xq, yq, truth = refits
    slopes = {}
    for correction in ("leverage", "none"):
        inf = InfluenceFunctions(model, correction=correction).fit()
        scores = inf.scores(Xq, yq).values[:, rows]
        slopes[correction] = np.polyfit(scores.ravel(), truth.ravel(), 1)[0]
    assert abs(slopes["leverage"] - 1) < abs(slopes["none"] - 1)
