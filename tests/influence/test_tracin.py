"""TracIn against dense gradients, and against the steps that it stands for."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trustml.influence import TracIn
from trustml.model import wrap

N, Q = 30, 4


@pytest.fixture(scope="module")
def case():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    X = torch.randn(N + Q, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (N + Q,), generator=generator)
    return net, X, y


def moved(net, scale):
    return {name: scale * value for name, value in net.state_dict().items()}


def at(net, state):
    other = copy.deepcopy(net)
    other.load_state_dict(state)
    return other


def dense(net, X, y):
    objective = wrap(net, train=(X[:N], y[:N])).objective
    return objective.rows((X[N:], y[N:])) @ objective.rows().T


def test_one_checkpoint_is_influence_with_the_identity_as_curvature(case):
    net, X, y = case
    model = wrap(net, train=(X[:N], y[:N]))
    found = TracIn(model).fit().scores(X[N:], y[N:], scale="raw")
    torch.testing.assert_close(found.values, dense(net, X, y))
    assert found.curvature is None
    assert found.certificate is None
    assert found.units == "nats per unit of learning rate, unscaled"


def test_checkpoints_add_up_with_their_learning_rates(case, tmp_path):
    net, X, y = case
    states = [moved(net, 0.5), moved(net, 0.8)]
    want = 0.3 * dense(at(net, states[0]), X, y) + 0.1 * dense(at(net, states[1]), X, y)
    model = wrap(net, train=(X[:N], y[:N]))
    found = TracIn(model, states, [0.3, 0.1]).fit().scores(X[N:], y[N:], scale="raw")
    torch.testing.assert_close(found.values, want)
    assert found.unit == "nats"
    save_file(states[0], tmp_path / "0.safetensors")
    save_file(states[1], tmp_path / "1.safetensors")
    files = [tmp_path / "0.safetensors", str(tmp_path / "1.safetensors")]
    stored = TracIn(model, files, [0.3, 0.1]).fit().scores(X[N:], y[N:], scale="raw")
    assert torch.equal(stored.values, found.values)


def test_an_effect_is_what_a_step_without_the_row_would_not_have_gained(case):
    net, X, y = case
    model, rate = wrap(net, train=(X[:N], y[:N])), 1e-5
    found = TracIn(model, [net.state_dict()], [rate]).fit().scores(X[N:], y[N:]).values
    objective = model.objective
    rows, theta = objective.rows(), objective.space.vector()

    def loss_after(kept):
        step = theta - rate * rows[kept].sum(0) / N
        other = model.replace(objective.space, step)
        return other.loss(X[N:], y[N:])

    every = np.arange(N)
    for i in (0, 7):
        change = loss_after(np.delete(every, i)) - loss_after(every)
        torch.testing.assert_close(found[:, i], change, rtol=1e-3, atol=1e-10)


def test_buffers_of_a_checkpoint_count():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)).double()
    X = torch.arange(8, dtype=torch.float64).reshape(4, 2)
    y = X.sum(1, keepdim=True)
    nn.init.constant_(net[1].weight, 0.5)
    other = copy.deepcopy(net)
    other[0].running_mean += 1.0
    states = [other.state_dict()]
    found = TracIn(wrap(net, task="regression", train=(X, y)), states).fit().scores(X, y)
    want = TracIn(wrap(other, task="regression", train=(X, y))).fit().scores(X, y)
    assert torch.equal(found.values, want.values)
    assert float(net[0].running_mean.sum()) == 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"checkpoints": []}, ValueError, "empty"),
        ({"checkpoints": {}}, TypeError, "put a single one into a list"),
        ({"checkpoints": ["model.pt"]}, ValueError, "no safetensors file"),
        ({"checkpoints": ["none.safetensors"]}, ValueError, "no file"),
        ({"checkpoints": [3]}, TypeError, "state dict or a path"),
        ({"learning_rates": [0.1, 0.1]}, ValueError, "2 entries for 1"),
        ({"learning_rates": [-0.1]}, ValueError, "positive"),
        ({"learning_rates": 0.1}, TypeError, "list"),
    ],
)
def test_bad_settings_are_refused(case, options, error, words):
    net, X, y = case
    with pytest.raises(error, match=words):
        TracIn(wrap(net, train=(X[:N], y[:N])), **options).fit()


def test_a_checkpoint_of_another_model_is_refused(case):
    net, X, y = case
    made = TracIn(wrap(net, train=(X[:N], y[:N])), [nn.Linear(2, 2).state_dict()]).fit()
    with pytest.raises(ValueError, match="checkpoint 0 does not fit Sequential"):
        made.scores(X[N:], y[N:])
