"""Training-time losses: closed forms, gradients, and what a small training gains."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import trustml
from trustml.ood import Energy, LastLayerLaplace, Msp, losses, metrics


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


TARGETS = torch.tensor([0, 2, 1, 2, 0])
PAIRED = {
    "exposure": losses.outlier_exposure,
    "energy": partial(losses.energy_regularization, margin_in=-1.5, margin_out=-0.9),
}


@pytest.mark.parametrize("name", PAIRED)
def test_gradients_of_paired_losses(name):
    inside, outside = draw(5, 3).requires_grad_(), draw(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: PAIRED[name](a, TARGETS, b), (inside, outside))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradients_of_logitnorm(reduction):
    loss = losses.LogitNorm(0.3, reduction)
    assert torch.autograd.gradcheck(lambda f: loss(f, TARGETS), draw(5, 3).requires_grad_())
    zero = torch.zeros(5, 3, requires_grad=True)
    loss(zero, TARGETS).sum().backward()
    assert torch.isfinite(zero.grad).all()


def test_outlier_exposure_is_a_cross_entropy_to_the_uniform():
    inside, outside = draw(5, 3), draw(4, 3, seed=1)
    uniform = F.cross_entropy(outside, torch.full((4, 3), 1 / 3, dtype=torch.float64))
    expected = F.cross_entropy(inside, TARGETS) + 0.7 * uniform
    found = losses.outlier_exposure(inside, TARGETS, outside, weight=0.7)
    assert float(found) == pytest.approx(float(expected))
    best = losses.outlier_exposure(inside, TARGETS, torch.ones(4, 3)) - F.cross_entropy(
        inside, TARGETS
    )
    assert float(best) == pytest.approx(0.5 * math.log(3), rel=1e-6)


def test_energies_beyond_their_margins_are_free():
    inside = torch.tensor([[9.0, 0.0], [0.0, 8.0]])
    outside = torch.tensor([[-9.0, -9.0]])
    y = torch.tensor([0, 1])
    free = losses.energy_regularization(inside, y, outside, 1.0, -7.0, 7.0)
    assert float(free) == pytest.approx(float(F.cross_entropy(inside, y)))
    paid = losses.energy_regularization(inside, y, outside, 1.0, -10.0, 10.0)
    low = -torch.logsumexp(inside, 1) + 10
    high = 10 + torch.logsumexp(outside, 1)
    expected = F.cross_entropy(inside, y) + (low**2).mean() + (high**2).mean()
    assert float(paid) == pytest.approx(float(expected))


def test_logitnorm_is_blind_to_length_and_bounded():
    loss, f = losses.LogitNorm(0.2), draw(5, 3)
    assert float(loss(1e6 * f, TARGETS)) == pytest.approx(float(loss(f, TARGETS)))
    best = torch.full((1, 3), -0.5, dtype=torch.float64)
    best[0, 1] = 1.0
    bound = math.log(1 + 2 * math.exp(-3 / (0.2 * math.sqrt(6))))
    assert float(loss(best, torch.tensor([1]))) == pytest.approx(bound)
    assert loss(f, TARGETS) > bound


def worlds():
    """Three classes on a ring, foreign rows to train with, others to find."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 900)
    angle = 2 * np.pi * y / 3
    X = 2 * np.c_[np.cos(angle), np.sin(angle)] + 0.45 * rng.normal(size=(900, 2))
    away = rng.uniform(0, 2 * np.pi, (2, 600))
    exposed = rng.uniform(3.5, 6, (600, 1)) * np.c_[np.cos(away[0]), np.sin(away[0])]
    unknown = rng.uniform(4.5, 9, (600, 1)) * np.c_[np.cos(away[1]), np.sin(away[1])]
    return [torch.tensor(a, dtype=torch.float32) for a in (X, exposed, unknown)] + [torch.tensor(y)]


def train(loss, seed=0):
    X, exposed, _, y = worlds()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
                            nn.Linear(32, 3))  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss(net(X[:600]), y[:600], net(exposed)).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def plain():
    return train(lambda f, y, g: F.cross_entropy(f, y))


def found(net, detector):
    X, _, unknown, _ = worlds()
    det = detector(trustml.wrap(net, task="classification")).fit(X[:600])
    return metrics.auroc(det.score(X[600:]), det.score(unknown))


def accuracy(net):
    X, _, _, y = worlds()
    return float((net(X[600:]).argmax(1) == y[600:]).float().mean())


@pytest.mark.parametrize(
    ("loss", "detector"),
    [
        (losses.outlier_exposure, Msp),
        (partial(losses.energy_regularization, margin_in=-8.0, margin_out=-2.0), Energy),
    ],
)
def test_training_with_outliers_lets_a_detector_find_others(plain, loss, detector):
    net = train(loss)
    assert found(net, detector) > 0.97
    assert found(net, detector) > found(plain, detector) + 0.2
    assert accuracy(net) > accuracy(plain) - 0.02


def test_logitnorm_trains_and_is_a_loss_of_the_house():
    X, _, _, y = worlds()
    loss = losses.LogitNorm(0.2)
    net = train(lambda f, targets, g: loss(f, targets))
    assert accuracy(net) > 0.95
    model = trustml.wrap(net, loss=loss, train=(X, y), task="classification")
    rows = losses.LogitNorm(0.2, "none")(net(X), y)
    np.testing.assert_allclose(model.loss(X, y), rows.detach(), rtol=1e-5)
    scores = LastLayerLaplace(model).fit(X).score(X)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda f, y: losses.outlier_exposure(f, y, draw(4, 2)), r"\(n, c\) and \(m, c\)"),
        (lambda f, y: losses.outlier_exposure(f, y, draw(0, 3)), "rows in both"),
        (lambda f, y: losses.outlier_exposure(f, y, f, weight=-1), "weight must be at least 0"),
        (lambda f, y: losses.energy_regularization(f, y, f, 1, -5, -9), "margin_in must be below"),
        (lambda f, y: losses.LogitNorm()(draw(5, 1), y), "use two outputs"),
        (lambda f, y: losses.LogitNorm(0), "temperature must be positive"),
        (lambda f, y: losses.LogitNorm(1, "max"), "reduction must be one of"),
    ],
)
def test_bad_input_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call(draw(5, 3), TARGETS)
