"""Cross Venn-Abers: the merger of held-out pairs, with refits and without."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

import trustml
from trustml.conformal import CrossVennAbers, VennAbers


@pytest.fixture(scope="module")
def cancer() -> tuple:
    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = StandardScaler().fit_transform(X)[order], y[order]
    fitted = LogisticRegression(C=0.1, max_iter=1000, tol=1e-10).fit(X[:300], y[:300])
    return trustml.wrap(fitted, train=(X[:300], y[:300])), X, y


def test_with_refits_it_is_the_merger_of_inductive_predictors(cancer: tuple) -> None:
    model, X, y = cancer
    cross = CrossVennAbers(model, folds=4, refit=True, random_state=0).fit()
    pairs = []
    for k in range(4):
        inside, outside = cross.fold_ == k, np.flatnonzero(cross.fold_ != k)
        held = model.retrain(outside)
        inductive = VennAbers(held).fit(X[:300][inside], y[:300][inside])
        pairs.append(inductive.predict_bounds(X[300:])[:, 1])
    low, high = np.stack(pairs).transpose(2, 0, 1)
    favour, against = (np.exp(np.log(part).mean(0)) for part in (high, 1 - low))
    found = cross.predict_proba(X[300:])
    np.testing.assert_allclose(found[:, 1], favour / (favour + against), rtol=1e-8)
    np.testing.assert_allclose(found.sum(1), 1)


def test_without_refits_it_is_close_to_refits_and_as_good(cancer: tuple) -> None:
    model, X, y = cancer
    exact = CrossVennAbers(model, refit=True, random_state=1).fit().predict_proba(X[300:])
    fast = CrossVennAbers(model, random_state=1).fit().predict_proba(X[300:])
    assert np.abs(fast - exact).mean() < 0.003
    losses = [log_loss(y[300:], p[:, 1]) for p in (fast, exact)]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)


def test_it_repairs_a_model_that_is_too_sure() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 12))
    y = np.array(["no", "yes"])[(X[:, 0] + 1.5 * rng.normal(size=900) > 0).astype(int)]
    wide = np.hstack([X, X[:, :6] * X[:, 6:], X**2])
    fitted = LogisticRegression(C=1e3, max_iter=5000).fit(wide[:150], y[:150])
    model = trustml.wrap(fitted, train=(wide[:150], y[:150]))
    cross = CrossVennAbers(model, folds=5, refit=True, random_state=0).fit()
    before, after = (m.predict_proba(wide[150:])[:, 1] for m in (model, cross))
    assert log_loss(y[150:] == "yes", after) < log_loss(y[150:] == "yes", before) - 0.02
    assert set(cross.predict(wide[150:])) == {"no", "yes"}


def test_many_classes_kinds_seeds_and_rows_alone(digits: object) -> None:
    d = digits
    cross = CrossVennAbers(d.model, folds=3, random_state=0).fit()
    found = cross.predict_proba(torch.from_numpy(d.X[:50]))
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found.sum(1), torch.ones(50, dtype=torch.float64))
    np.testing.assert_allclose(cross.predict_proba(d.X[:1]), found[:1].numpy(), rtol=1e-6)
    assert (cross.predict(d.X) == d.y).mean() > 0.85
    same = CrossVennAbers(d.model, folds=3, random_state=0).fit()
    np.testing.assert_array_equal(same.fold_, cross.fold_)
    assert (CrossVennAbers(d.model, folds=3, random_state=1).fit().fold_ != cross.fold_).any()


def test_bad_input(digits: object, diabetes: object) -> None:
    with pytest.raises(NotFittedError):
        CrossVennAbers(digits.model).predict_proba(digits.X)
    with pytest.raises(TypeError, match="needs a classifier"):
        CrossVennAbers(diabetes.model).fit()
    with pytest.raises(ValueError, match="train="):
        CrossVennAbers(trustml.wrap(digits.estimator)).fit()
    with pytest.raises(ValueError, match="folds"):
        CrossVennAbers(digits.model, folds=1).fit()
