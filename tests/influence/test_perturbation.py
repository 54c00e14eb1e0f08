"""Derivatives by training inputs against refits after small changes."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from torch import nn

from trustml.ihvp import Hessian
from trustml.influence import InfluenceFunctions, perturbation_influence
from trustml.model import wrap


def test_it_is_the_derivative_of_a_ridge_refit():
    X, y = load_diabetes(return_X_y=True)
    X, y, Xq, yq = X[:60], y[:60], X[60:64], y[60:64]

    def losses(rows):
        return wrap(Ridge(alpha=0.1).fit(rows, y)).loss(Xq, yq)

    influence = InfluenceFunctions(wrap(Ridge(alpha=0.1).fit(X, y), train=(X, y))).fit()
    found = perturbation_influence(influence, Xq, yq, [7, 3])
    assert isinstance(found, np.ndarray)
    assert found.shape == (4, 2, 10)
    for place, row in enumerate((7, 3)):
        for column in (0, 9):
            step = np.zeros_like(X)
            step[row, column] = 1e-5
            slope = (losses(X + step) - losses(X - step)) / 2e-5
            np.testing.assert_allclose(found[:, place, column], slope, rtol=1e-4, atol=1e-3)


def logistic(X, y, decay=0.1):
    """Train multinomial logistic regression to its minimum by Newton's method."""
    net = nn.Linear(3, 3).double()
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    model = wrap(net, task="classification", train=(X, y), weight_decay=decay)
    vector = model.objective.space.vector()
    for _ in range(12):
        here = model.objective.at(vector)
        vector = vector - torch.linalg.solve(Hessian(here).dense(), here.gradient())
    return model.replace(model.objective.space, vector)


def test_it_is_the_derivative_of_a_logistic_refit():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(34, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (34,), generator=generator)
    X, y, Xq, yq = X[:30], y[:30], X[30:], y[30:]
    influence = InfluenceFunctions(logistic(X, y), damping=0.0).fit()
    found = perturbation_influence(influence, Xq, yq)
    assert found.shape == (4, 30, 3)
    some = perturbation_influence(influence, Xq, yq, [5, 2])
    torch.testing.assert_close(some, found[:, [5, 2]])
    for row in (0, 11):
        step = torch.zeros_like(X)
        step[row, 1] = 1e-4
        up, down = (logistic(X + sign * step, y).loss(Xq, yq) for sign in (1, -1))
        torch.testing.assert_close(found[:, row, 1], (up - down) / 2e-4, rtol=1e-4, atol=1e-9)


def test_a_measure_and_inputs_of_any_shape():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    X = torch.randn(12, 1, 3, 3, generator=generator, dtype=torch.float64)
    y = torch.arange(12) % 2
    influences = [
        InfluenceFunctions(wrap(net, train=(X, y), batch_size=size), damping=0.1).fit()
        for size in ("auto", 5)
    ]
    one, other = (
        perturbation_influence(i, X[:3], rows=[4, 0], measure=lambda out, *_: out[:, 0])
        for i in influences
    )
    assert one.shape == (3, 2, 1, 3, 3)
    torch.testing.assert_close(one, other)
    objective, eps = influences[0].objective_, 1e-6
    solved = (
        influences[0]
        .solve(
            objective.rows(X[:3], lambda out, *_: torch.eye(2).double()[:1].expand(len(out), 2)).T
        )
        .x
    )
    step = torch.zeros_like(X[4:5])
    step[0, 0, 1, 1] = eps
    up, down = (objective.rows((X[4:5] + sign * step, y[4:5])) for sign in (1, -1))
    want = -((up - down) @ solved)[0] / (2 * eps) / 12
    torch.testing.assert_close(one[:, 0, 0, 1, 1], want, rtol=1e-6, atol=1e-10)


def test_what_it_cannot_do_is_refused():
    X = torch.arange(12).reshape(6, 2) % 5
    net = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    nn.init.constant_(net[0].weight, 0.1)
    influence = InfluenceFunctions(wrap(net, train=(X, torch.arange(6) % 2)), damping=0.1).fit()
    with pytest.raises(TypeError, match="tokens"):
        perturbation_influence(influence, X[:2], torch.tensor([0, 1]))
    with pytest.raises(TypeError, match="fitted influence functions"):
        perturbation_influence(net, X)
    with pytest.raises(ValueError, match="rows must lie in"):
        perturbation_influence(influence, X[:2], torch.tensor([0, 1]), rows=[9])
