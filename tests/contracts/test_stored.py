"""What was fitted can be stored: pickled and read again, it says the same."""

import pickle

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, Ridge

from trustml import conformal, fairness, influence, ood
from trustml.model import wrap

X, Y = load_iris(return_X_y=True)
BINARY = (Y == 1).astype(int)
GROUP = X[:, 0] > 5.8
D, T = load_diabetes(return_X_y=True)


@pytest.fixture(scope="module")
def model():
    return wrap(LogisticRegression(max_iter=500).fit(X, Y), train=(X, Y))


@pytest.fixture(scope="module")
def regression():
    return wrap(Ridge().fit(D[:60], T[:60]), train=(D[:60], T[:60]))


def same(fitted, ask):
    again = ask(pickle.loads(pickle.dumps(fitted)))
    np.testing.assert_array_equal(again, ask(fitted))


@pytest.mark.parametrize("detector", [ood.RelativeMahalanobis, ood.LastLayerLaplace, ood.Fused])
def test_detectors(model, detector):
    same(detector(model).fit(X, Y).calibrate(X), lambda d: d.p_values(X))


def test_suites(model):
    same(ood.Suite(model).fit(X, Y), lambda suite: suite.score(X).values)


@pytest.mark.parametrize("method", ["cholesky", "dual", "cg"])
def test_influence(model, method):
    fitted = influence.InfluenceFunctions(model, method=method).fit()
    same(fitted, lambda inf: inf.scores(X[:3], Y[:3]).values)


def test_predictors(model, regression):
    sets = conformal.SplitClassifier(model, "aps", random_state=0).fit(X, Y)
    same(sets, lambda cp: cp.p_values(X))
    same(conformal.JackknifePlusRegressor(regression).fit(), lambda cp: cp.predict_interval(D))
    split = conformal.SplitRegressor(regression, score="normalized").fit(D[60:], T[60:])
    same(split, lambda cp: cp.predict_interval(D))


@pytest.mark.parametrize("surrogate", ["probability", "threshold"])
def test_fair_influence(surrogate):
    binary = wrap(LogisticRegression().fit(X, BINARY), train=(X, BINARY))
    fair = fairness.FairInfluence(binary, surrogate=surrogate)
    fair.fit(X, BINARY, sensitive_features=GROUP)
    same(fair, lambda f: f.reweigh())


def test_group_metrics():
    scores = np.linspace(0, 1, len(X))
    g = fairness.group_metrics(
        BINARY, scores > 0.5, sensitive_features=GROUP, y_score=scores, random_state=0
    )
    same(g, lambda g: g.ci())
