"""TRAK against dense algebra, and what it must not do in silence."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from torch import nn

from trustml.influence import InfluenceFunctions, Trak
from trustml.model import wrap
from trustml.warnings import ConvergenceWarning

N, Q = 40, 5


def problem(outputs=3, width=6):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, outputs)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2)
    X = torch.randn(N + Q, 4, generator=generator, dtype=torch.float64)
    return net, X, torch.randint(max(outputs, 2), (N + Q,), generator=generator)


def margin(outputs, labels):
    """log p / (1 - p) of the labels."""
    own = outputs.gather(1, labels[:, None])[:, 0]
    mask = nn.functional.one_hot(labels, outputs.shape[1]).bool()
    return own - outputs.masked_fill(mask, -torch.inf).logsumexp(1)


def of_margins(net, X, y):
    """Return gradients of the margins (n, p) and 1 - p (n,), by plain autograd."""
    rows, rest = [], []
    for x, label in zip(X, y, strict=True):
        value = margin(net(x[None]), label[None])[0]
        found = torch.autograd.grad(value, list(net.parameters()))
        rows.append(torch.cat([g.reshape(-1) for g in found]))
        rest.append(torch.sigmoid(-value).detach())
    return torch.stack(rows), torch.stack(rest)


def kernel(net, X, y, damping):
    phi, rest = of_margins(net, X[:N], y[:N])
    asked, _ = of_margins(net, X[N:], y[N:])
    eye = torch.eye(phi.shape[1], dtype=phi.dtype)
    return asked @ torch.linalg.solve(phi.T @ phi / N + damping * eye, phi.T), rest


def ask_margin(outputs, inputs, targets):
    return margin(outputs, targets)


def test_without_a_projection_it_is_the_formula():
    net, X, y = problem()
    model = wrap(net, train=(X[:N], y[:N]))
    made = Trak(model, projection_size=10_000, damping=0.2).fit()
    assert made.output_ == "margin"
    products, rest = kernel(net, X, y, 0.2)
    found = made.scores(X[N:], y[N:], measure=ask_margin)
    # The paper's score is what a row's presence does, ours what its absence does.
    torch.testing.assert_close(found.values, -products * rest / N)
    loss = made.scores(X[N:], y[N:]).values
    _, own = of_margins(net, X[N:], y[N:])
    torch.testing.assert_close(loss, products * rest * own[:, None] / N)
    assert found.certificate.converged
    assert found.certificate.damping == pytest.approx(0.2)


def test_without_a_projection_it_is_influence_where_the_loss_is_quadratic():
    X, y = load_diabetes(return_X_y=True)
    model = wrap(Ridge(alpha=1e-9).fit(X[:200], y[:200]), train=(X[:200], y[:200]))
    made = Trak(model, projection_size=11, damping=0.0).fit()
    assert made.output_ == "output"
    exact = InfluenceFunctions(model, correction="none", damping=0.0).fit()
    found = made.scores(X[200:210], y[200:210]).values
    want = exact.scores(X[200:210], y[200:210]).values
    # The Hessian of the unhalved squared error is twice the features' second moment.
    np.testing.assert_allclose(found, 2 * want, rtol=1e-3, atol=1e-6)


def test_kernels_and_weights_of_checkpoints_are_averaged_apart():
    net, X, y = problem()
    states = [{k: s * v for k, v in net.state_dict().items()} for s in (0.5, 1.2)]
    products, weights = [], []
    for state in states:
        other = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        other.load_state_dict(state)
        product, rest = kernel(other, X, y, 0.2)
        products.append(product)
        weights.append(rest)
    want = -torch.stack(products).mean(0) * torch.stack(weights).mean(0) / N
    made = Trak(wrap(net, train=(X[:N], y[:N])), 10_000, states, damping=0.2).fit()
    found = made.scores(X[N:], y[N:], measure=ask_margin).values
    torch.testing.assert_close(found, want)
    diagonal = made.scores(X[:N], y[:N]).values.diagonal()
    torch.testing.assert_close(torch.as_tensor(made.self_influence()), diagonal)


@pytest.mark.parametrize("size", [38, 60])
def test_features_that_fit_every_row_are_damped_and_said(size):
    net, X, y = problem(width=12)  # more parameters than rows
    model = wrap(net, train=(X[:N], y[:N]))
    with pytest.warns(ConvergenceWarning, match="would be noise"):
        made = Trak(model, size, damping=0.0).fit()
    assert made.damping_.value > 0
    assert f"for {N} training rows" in made.damping_.reason
    automatic = Trak(model, size).fit()
    assert automatic.damping_.value == pytest.approx(made.damping_.value)
    assert automatic.damping_.effective_dof < size
    few = Trak(model, 8, damping=0.0).fit()
    assert few.damping_.value == 0


def test_more_dimensions_come_closer_to_none_projected():
    net, X, y = problem(width=40)
    model = wrap(net, train=(X[:N], y[:N]))
    want = Trak(model, 10_000, damping=1.0).fit().scores(X[N:], y[N:]).values

    def error(size):
        found = [
            Trak(model, size, damping=1.0, random_state=seed).fit().scores(X[N:], y[N:]).values
            for seed in range(5)
        ]
        return sum(float((v - want).norm() / want.norm()) for v in found) / 5

    assert error(160) < 0.5 * error(10)
    assert error(160) < 0.3


def test_instances_share_no_settings():
    net, X, y = problem()
    model = wrap(net, train=(X[:N], y[:N]))
    first = Trak(model, 7).fit().scores(X[N:], y[N:]).values
    Trak(model, 19, random_state=3).fit()
    assert torch.equal(Trak(model, 7).fit().scores(X[N:], y[N:]).values, first)
    assert Trak(model).projection_size == 512
    other = Trak(model, 7, random_state=1).fit().scores(X[N:], y[N:]).values
    assert not torch.equal(other, first)


def test_other_losses_linearise_what_they_can():
    net, X, _ = problem(outputs=2)
    model = wrap(net, task="regression", train=(X[:N], X[:N, :2]))
    made = Trak(model, 10_000, damping=0.2).fit()
    assert made.output_ == "loss"
    rows, asked = model.objective.rows(), model.objective.rows((X[N:], X[N:, :2]))
    eye = torch.eye(rows.shape[1], dtype=rows.dtype)
    want = asked @ torch.linalg.solve(rows.T @ rows / N + 0.2 * eye, rows.T) / N
    torch.testing.assert_close(made.scores(X[N:], X[N:, :2]).values, want)
    binary, X, y = problem(outputs=1)
    assert Trak(wrap(binary, train=(X, y), task="classification")).fit().output_ == "output"
    smooth, X, y = problem()
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    assert Trak(wrap(smooth, train=(X, y), loss=loss)).fit().output_ == "loss"


def test_class_weights_are_in_the_weights():
    net, X, y = problem()
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64))
    made = Trak(wrap(net, train=(X[:N], y[:N]), loss=loss), 10_000, damping=0.2).fit()
    products, rest = kernel(net, X, y, 0.2)
    found = made.scores(X[N:], y[N:], measure=ask_margin).values
    torch.testing.assert_close(found, -products * rest * loss.weight[y[:N]] / N)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"projection_size": 0}, ValueError),
        ({"projection_size": 2.5}, TypeError),
        ({"damping": -1.0}, ValueError),
        ({"damping": "some"}, ValueError),
        ({"checkpoints": []}, ValueError),
    ],
)
def test_bad_settings_are_refused(options, error):
    net, X, y = problem()
    with pytest.raises(error):
        Trak(wrap(net, train=(X[:N], y[:N])), **options).fit()
