"""DataInf against the mean of explicit inverses."""

import math

import pytest
import torch
from torch import nn

from trustml.influence import DataInf, TracIn
from trustml.model import wrap

N, Q = 25, 4


def problem(bias=True):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4, bias=bias), nn.Tanh(), nn.Linear(4, 2, bias=bias)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    X = torch.randn(N + Q, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (N + Q,), generator=generator)
    return net, X, y


def reference(model, Xq, yq, added):
    objective = model.objective
    rows, asked = objective.rows(), objective.rows((Xq, yq))
    total = 0
    for s in objective.space.slices.values():
        g, damping = rows[:, s], added + objective.weight_decay[s.start]
        eye = torch.eye(g.shape[1], dtype=g.dtype)
        inverse = torch.stack([torch.linalg.inv(torch.outer(r, r) + damping * eye) for r in g])
        total = total + asked[:, s] @ inverse.mean(0) @ g.T
    return total


@pytest.mark.parametrize("batch_size", ["auto", 4])
def test_it_is_the_mean_of_the_inverses(batch_size):
    net, X, y = problem()
    model = wrap(net, train=(X[:N], y[:N]), weight_decay=0.02, batch_size=batch_size)
    found = DataInf(model, damping=0.3).fit().scores(X[N:], y[N:], scale="raw").values
    torch.testing.assert_close(found, reference(model, X[N:], y[N:], 0.3))


def test_of_one_row_it_is_exact():
    net, X, _ = problem(bias=False)
    y = X[:, :2] + 1
    model = wrap(net, train=(X[:1], y[:1]), task="regression")
    objective = model.objective.restrict("2.weight")
    rows, asked = objective.rows(), objective.rows((X[N:], y[N:]))
    fisher = rows.T @ rows + 0.1 * torch.eye(rows.shape[1], dtype=rows.dtype)
    made = DataInf(model, damping=0.1, parameters="2.weight").fit()
    found = made.scores(X[N:], y[N:], scale="raw").values
    torch.testing.assert_close(found, asked @ torch.linalg.solve(fisher, rows.T))


def test_a_large_damping_leaves_the_inner_product_of_gradients():
    net, X, y = problem()
    model = wrap(net, train=(X[:N], y[:N]))
    found = DataInf(model, damping=1e6).fit().scores(X[N:], y[N:]).values
    plain = TracIn(model).fit().scores(X[N:], y[N:]).values
    torch.testing.assert_close(1e6 * found, plain, rtol=1e-4, atol=1e-7)


def test_the_automatic_damping_is_a_tenth_of_the_mean_eigenvalue():
    net, X, y = problem()
    model = wrap(net, train=(X[:N], y[:N]), weight_decay={"0.weight": 0.5})
    made = DataInf(model).fit()
    space, rows = model.objective.space, model.objective.rows()
    for name, s in space.slices.items():
        g = rows[:, s]
        eigenvalues = torch.linalg.eigvalsh(g.T @ g / N)
        decay = 0.5 if name == "0.weight" else 0.0
        assert made.damping_[name] == pytest.approx(0.1 * float(eigenvalues.mean()) + decay)


def test_a_parameter_without_gradients_plays_no_part():
    net, X, y = problem()
    net.add_module("unused", nn.Identity())
    net.unused.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
    model = wrap(net, train=(X[:N], y[:N]))
    made = DataInf(model).fit()
    assert made.damping_["unused.weight"] == math.inf
    del net.unused
    want = DataInf(wrap(net, train=(X[:N], y[:N]))).fit().scores(X[N:], y[N:]).values
    torch.testing.assert_close(made.scores(X[N:], y[N:]).values, want)


@pytest.mark.parametrize("damping", [0, 0.0, -1.0, float("nan"), float("inf"), True, "some"])
def test_damping_that_it_cannot_divide_by_is_refused(damping):
    net, X, y = problem()
    with pytest.raises(ValueError, match="damping must be"):
        DataInf(wrap(net, train=(X[:N], y[:N])), damping=damping).fit()
