"""What the engine says about attributions is what refits do."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from torch import nn

from trustml.explain import IntegratedGradients, caused_by, uncertainty
from trustml.influence import InfluenceFunctions
from trustml.model import wrap


@pytest.fixture(scope="module")
def ridge_case():
    X, y = load_diabetes(return_X_y=True)
    X, y = 20 * X[:60], y[:60]
    model = wrap(Ridge(alpha=3.0).fit(X, y), train=(X, y))
    refits = np.stack(
        [Ridge(alpha=3.0).fit(np.delete(X, i, 0), np.delete(y, i)).coef_ for i in range(60)]
    )
    return model, X, refits


def test_caused_by_is_the_refit_for_ridge(ridge_case):
    """Integrated gradients of a linear model are w (x - b): leave-one-out has a closed form."""
    model, X, refits = ridge_case
    explainer = IntegratedGradients(model, baseline=X[0])
    for j in (0, 2, 7):
        found = caused_by(explainer, X[10:14], feature=j)
        moved = refits[:, j] - model.estimator.coef_[j]
        exact = (X[10:14, j] - X[0, j])[:, None] * moved
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-8 * np.abs(exact).max())


def test_the_jackknife_of_attributions_is_the_refitted_one_for_ridge(ridge_case):
    model, X, refits = ridge_case
    found = uncertainty(IntegratedGradients(model), X[10:14], correction="leverage")
    values = X[10:14, None] * refits
    spread = ((values - values.mean(1, keepdims=True)) ** 2).sum(1)
    np.testing.assert_allclose(found, np.sqrt(59 / 60 * spread), rtol=1e-8)


@pytest.fixture(scope="module")
def logistic_case():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)[:300, :12]
    y = y[:300]
    return X, y, wrap(LogisticRegression(C=0.1, tol=1e-10).fit(X, y), train=(X, y))


def test_caused_by_follows_refits_of_a_logistic_regression(logistic_case):
    """A curved attribution, of the probability, against actual leave-one-out refits."""
    X, _, model = logistic_case
    explainer = IntegratedGradients(model, output="probability")
    query = X[[5, 200]]
    before = explainer.attribute(query, target=1).values
    rows = np.random.default_rng(0).choice(300, 40, replace=False)
    predicted = caused_by(explainer, query, 1, feature=7)[:, rows]
    actual = np.empty_like(predicted)
    for k, i in enumerate(rows):
        refit = model.retrain(np.delete(np.arange(300), i))
        after = IntegratedGradients(refit, output="probability").attribute(query, target=1).values
        actual[:, k] = (after - before)[:, 7]
    for p, a in zip(predicted, actual, strict=True):
        assert np.corrcoef(p, a)[0, 1] > 0.999
        assert 0.95 < p @ a / (p @ p) < 1.05


def test_standard_errors_are_those_of_the_bootstrap(logistic_case):
    X, y, model = logistic_case
    explainer = IntegratedGradients(model)
    found = uncertainty(explainer, X[:6], target=1)
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(150):
        rows = rng.integers(300, size=300)
        weights = LogisticRegression(C=0.1).fit(X[rows], y[rows]).coef_[0]
        draws.append(weights * X[:6])
    ratio = found / np.std(draws, axis=0)
    assert 0.85 < np.median(ratio) < 1.15
    assert np.corrcoef(found.ravel(), np.std(draws, axis=0).ravel())[0, 1] > 0.97


def test_caused_by_is_the_attribution_at_the_changed_parameters():
    """On a ReLU net, kinks included: attributions of the model without each row, by force."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2)).double()
    X = torch.randn(80, 5, generator=generator, dtype=torch.float64)
    y = (X[:, 0] * X[:, 1] + X[:, 2] > 0).long()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 2)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        decay = sum(p.square().sum() for p in net.parameters())
        loss = nn.functional.cross_entropy(net(X), y) + 0.01 * decay
        loss.backward()
        return loss

    optimizer.step(closure)
    net.zero_grad()
    model = wrap(net, task="classification", train=(X, y), weight_decay=0.02)
    influence = InfluenceFunctions(model, correction="none").fit()
    query = X[:2]
    predicted = caused_by(IntegratedGradients(model), query, 1, feature=2, influence=influence)
    before = IntegratedGradients(model).attribute(query, 1).values[:, 2]
    space = influence.objective_.space
    changes = influence.parameter_changes(torch.arange(80))
    moved = torch.stack(
        [
            IntegratedGradients(model.replace(space, space.vector() + 0.1 * change))
            .attribute(query, 1)
            .values[:, 2]
            for change in changes.T
        ],
        dim=1,
    )
    actual = 10 * (moved - before[:, None])
    for p, a in zip(predicted, actual, strict=True):
        assert float(torch.corrcoef(torch.stack([p, a]))[0, 1]) > 0.99
        assert 0.95 < float(p @ a / (p @ p)) < 1.05
