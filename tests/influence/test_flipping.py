"""Rows whose removal flips a prediction: found, verified, or a reason why not."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from torch import nn

from trustml.influence import FlippingSubset, InfluenceFunctions, flipping_subset
from trustml.model import wrap


def fitted(load):
    X, y = load(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    estimator = LogisticRegression(tol=1e-8, max_iter=5000).fit(X, y)
    model = wrap(estimator, train=(X, y))
    return X, y, model, InfluenceFunctions(model).fit()


@pytest.fixture(scope="module")
def cancer():
    return fitted(load_breast_cancer)


@pytest.mark.parametrize("load", [load_breast_cancer, load_iris], ids=["two", "three"])
def test_what_is_found_flips_the_refit(load):
    X, y, model, influence = fitted(load)
    doubtful = np.argsort(model.predict_proba(X).max(1))[[0, 3, 8]]
    for i in doubtful:
        found = flipping_subset(influence, X[i : i + 1])
        assert isinstance(found, FlippingSubset)
        assert found.found
        assert found.verified_by == "refit"
        kept = np.setdiff1d(np.arange(len(X)), found.indices)
        refit = LogisticRegression(tol=1e-8, max_iter=5000).fit(X[kept], y[kept])
        assert refit.predict(X[i : i + 1]) != model.predict(X[i : i + 1])
        assert found.margin > 0 > found.margin_refit
        assert found.margin_newton == pytest.approx(found.margin_refit, abs=0.5)
        assert len(found) < 20
        assert len(np.unique(found.indices)) == len(found)


def test_fewer_of_the_rows_do_not_flip(cancer):
    X, _, _, influence = cancer
    model = influence.model_
    i = int(np.argsort(model.predict_proba(X).max(1))[25])
    found = flipping_subset(influence, X[i : i + 1], refit=False)
    assert found.verified_by == "newton"
    assert np.isnan(found.margin_refit)
    assert len(found) > 1
    own = model.predict(X[i : i + 1])
    assert influence.remove(found.indices).predict(X[i : i + 1]) != own
    assert influence.remove(found.indices[:-1]).predict(X[i : i + 1]) == own


def test_a_limit_that_is_too_low_is_a_reason(cancer):
    X, _, model, influence = cancer
    i = int(model.predict_proba(X).max(1).argmax())
    found = flipping_subset(influence, X[i : i + 1], max_rows=3)
    assert not found.found
    assert len(found) == 0
    assert found.verified_by is None
    assert "limit of 3 rows" in found.reason
    assert "found=False" in repr(found)


def test_no_row_that_matters_is_a_reason():
    X = torch.zeros(6, 2, dtype=torch.float64)
    net = nn.Linear(2, 2).double()
    with torch.no_grad():
        net.weight.fill_(0.0)
        net.bias.copy_(torch.tensor([2.0, -2.0]))
    # Only the weight moves, and it has no gradient where the inputs are zero.
    model = wrap(net, train=(X, torch.arange(6) % 2), weight_decay=0.1)
    influence = InfluenceFunctions(model, parameters="weight", damping=0.1).fit()
    found = flipping_subset(influence, X[:1])
    assert not found.found
    assert "no row's absence" in found.reason


def test_the_model_is_left_alone(cancer):
    X, _, model, influence = cancer
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    flipping_subset(influence, X[70:71], refit=False)
    assert all(torch.equal(before[k], v) for k, v in model.module.state_dict().items())
    assert influence.get_params()["model"] is model


def test_what_it_cannot_do_is_refused(cancer):
    X, _, _, influence = cancer
    with pytest.raises(ValueError, match="one row, got 2"):
        flipping_subset(influence, X[:2])
    with pytest.raises(ValueError, match="max_rows"):
        flipping_subset(influence, X[:1], max_rows=0)
    A, b = load_diabetes(return_X_y=True)
    regression = InfluenceFunctions(wrap(Ridge().fit(A, b), train=(A, b))).fit()
    with pytest.raises(ValueError, match="needs a classifier"):
        flipping_subset(regression, A[:1])


def test_where_a_newton_step_is_far_from_the_refit_refits_lead_the_search():
    X, y = load_breast_cancer(return_X_y=True)
    X, y = StandardScaler().fit_transform(X), y
    estimator = LogisticRegression(tol=1e-8, max_iter=1000).fit(X[:200], y[:200])
    influence = InfluenceFunctions(wrap(estimator, train=(X[:200], y[:200]))).fit()
    found = flipping_subset(influence, X[200:201])
    assert found.found
    kept = np.setdiff1d(np.arange(200), found.indices)
    refit = clone(estimator).fit(X[kept], y[kept])
    assert refit.predict(X[200:201]) != estimator.predict(X[200:201])
    alone = flipping_subset(influence, X[200:201], refit=False)
    assert alone.found or "of the rows' pull" in alone.reason


def test_rows_that_are_a_whole_class_are_not_refitted():
    corners = np.array([[0.0, 4.0], [4.0, 0.0], [-4.0, 0.0]])
    y = np.repeat([0, 1, 2], [20, 2, 20])
    X = corners[y] + np.random.default_rng(0).normal(scale=0.1, size=(42, 2))
    estimator = LogisticRegression(C=10.0, tol=1e-8, max_iter=5000).fit(X, y)
    influence = InfluenceFunctions(wrap(estimator, train=(X, y))).fit()
    found = flipping_subset(influence, corners[1:2])
    assert found.found
    assert set(found.indices.tolist()) >= {20, 21}
    assert found.verified_by == "newton"
    assert "a class is gone" in found.reason
