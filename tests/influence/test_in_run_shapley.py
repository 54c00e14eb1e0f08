"""In-Run Data Shapley against brute force, and against the run itself."""

import itertools
import math

import pytest
import torch
from torch import nn

from trustml.influence import InRunShapley, TrainingStep
from trustml.model import wrap
from trustml.warnings import ApproximationWarning


def problem(task):
    generator = torch.Generator().manual_seed(0)
    if task == "regression":
        net = nn.Linear(3, 1).double()
    else:
        net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    X = torch.randn(24, 3, generator=generator, dtype=torch.float64)
    y = (
        X.sum(1, keepdim=True)
        if task == "regression"
        else torch.randint(3, (24,), generator=generator)
    )
    loss = nn.MSELoss() if task == "regression" else nn.CrossEntropyLoss()
    return net, X, y, loss


def train(run, net, X, y, loss, rate, steps=4, **options):
    """Train by SGD under a watch; return the steps."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, **options)
    taken = []
    for _ in range(steps):
        rows = torch.randperm(20, generator=generator)[:5]
        state = {name: value.clone() for name, value in net.state_dict().items()}
        taken.append(TrainingStep(state, rows, rate))
        with run.step(rows, rate):
            optimizer.zero_grad()
            loss(net(X[rows]), y[rows]).backward()
            optimizer.step()
    return taken


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("order", [1, 2])
def test_watching_and_replaying_are_the_same(task, order):
    net, X, y, loss = problem(task)
    model = wrap(net, task=task, train=(X[:20], y[:20]))
    run = InRunShapley(model, order=order).fit().watch(X[20:], y[20:])
    steps = train(run, net, X, y, loss, 0.02)
    seen = run.scores()
    made = InRunShapley(model, steps, order=order).fit()
    replayed = made.scores(X[20:], y[20:])
    torch.testing.assert_close(seen.values, replayed.values)
    torch.testing.assert_close(
        torch.as_tensor(run.validity_.measured), torch.as_tensor(made.validity_.measured)
    )
    assert len(run.validity_.predicted) == 4
    never = sorted(set(range(20)) - {int(i) for step in steps for i in step.rows})
    assert (seen.values[:, never] == 0).all()


def test_second_order_is_the_whole_change_of_a_quadratic_loss():
    net, X, y, loss = problem("regression")
    run = InRunShapley(wrap(net, task="regression", train=(X[:20], y[:20])), order=2).fit()
    watched = run.watch(X[20:], y[20:])
    before = (net(X[20:]) - y[20:]).square()[:, 0].detach()
    train(watched, net, X, y, loss, 0.1)
    after = (net(X[20:]) - y[20:]).square()[:, 0].detach()
    found = watched.scores()
    torch.testing.assert_close(-found.values.sum(1), after - before)
    assert watched.validity_.error < 1e-12
    assert found.units == "change of squared target units"


def test_second_order_follows_a_network_closer():
    errors = []
    for order in (1, 2):
        net, X, y, loss = problem("classification")
        model = wrap(net, train=(X[:20], y[:20]))
        run = InRunShapley(model, order=order).fit().watch(X[20:], y[20:])
        train(run, net, X, y, loss, 0.05)
        run.scores()
        errors.append(run.validity_.error)
    assert errors[1] < 0.1 * errors[0]


def test_it_is_the_shapley_value_of_the_step():
    net, X, y, _ = problem("regression")
    rows, rate = [3, 8, 11, 17], 0.3
    model = wrap(net, task="regression", train=(X[:20], y[:20]))
    objective = model.objective
    gradients, theta = objective.rows()[rows], objective.space.vector()

    def loss_after(subset):
        """The loss of a query after a step with some rows' gradients; exact, as is order 2."""
        step = theta - rate / len(rows) * gradients[list(subset)].sum(0)
        return float(model.replace(objective.space, step).loss(X[20:21], y[20:21])[0])

    found = InRunShapley(model, [TrainingStep(net.state_dict(), rows, rate)], order=2).fit()
    values = found.scores(X[20:21], y[20:21]).values[0]
    for i in range(4):
        others = [j for j in range(4) if j != i]
        value = 0.0
        for size in range(4):
            share = math.factorial(size) * math.factorial(3 - size) / math.factorial(4)
            for subset in itertools.combinations(others, size):
                value += share * (loss_after(subset) - loss_after((*subset, i)))
        assert float(values[rows[i]]) == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_it_warns_where_the_expansion_fails():
    net, X, y, loss = problem("classification")
    model = wrap(net, train=(X[:20], y[:20]))
    run = InRunShapley(model).fit().watch(X[20:], y[20:])
    train(run, net, X, y, loss, 3.0)
    with pytest.warns(ApproximationWarning, match="off the measured"):
        run.scores()
    assert run.validity_.error > 0.25


def test_it_warns_where_something_else_moves_the_model():
    net, X, y, loss = problem("classification")
    model = wrap(net, train=(X[:20], y[:20]))
    run = InRunShapley(model, order=2).fit().watch(X[20:], y[20:])
    train(run, net, X, y, loss, 0.02, steps=8, momentum=0.95)
    with pytest.warns(ApproximationWarning, match="momentum"):
        run.scores()


def test_a_step_that_fails_is_not_counted():
    net, X, y, _ = problem("regression")
    run = InRunShapley(wrap(net, task="regression", train=(X, y))).fit().watch(X[:2], y[:2])
    with pytest.raises(RuntimeError, match="stopped"), run.step([0, 1], 0.1):
        raise RuntimeError("stopped")
    assert (run.scores().values == 0).all()


@pytest.mark.parametrize(
    ("rows", "rate", "words"),
    [([0, 99], 0.1, "rows must lie in"), ([0, 0], 0.1, "twice"), ([0], -1.0, "positive")],
)
def test_bad_steps_are_refused(rows, rate, words):
    net, X, y, _ = problem("regression")
    model = wrap(net, task="regression", train=(X, y))
    run = InRunShapley(model).fit().watch(X[:2], y[:2])
    with pytest.raises(ValueError, match=words), run.step(rows, rate):
        pass
    with pytest.raises(ValueError, match=words):
        InRunShapley(model, [TrainingStep(net.state_dict(), rows, rate)]).fit()


def test_bad_settings_are_refused():
    net, X, y, _ = problem("regression")
    model = wrap(net, task="regression", train=(X, y))
    with pytest.raises(ValueError, match="order must be one of 1, 2"):
        InRunShapley(model, order=3).fit()
    with pytest.raises(TypeError, match="TrainingStep"):
        InRunShapley(model, [net.state_dict()]).fit()
    with pytest.raises(ValueError, match="no trajectory"):
        InRunShapley(model).fit().scores(X[:2], y[:2])
