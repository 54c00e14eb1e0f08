"""Representer points: the sum over training rows is the model."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from trustml.ihvp import Hessian
from trustml.influence import RepresenterPoints
from trustml.model import wrap
from trustml.warnings import ApproximationWarning

ESTIMATORS = {
    "logistic": (LogisticRegression(solver="newton-cg", tol=1e-12, max_iter=1000), load_iris),
    "ridge": (Ridge(alpha=0.5), load_diabetes),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_parts_add_up_to_the_outputs(name):
    estimator, load = ESTIMATORS[name]
    X, y = load(return_X_y=True)
    model = wrap(estimator.fit(X, y), train=(X, y))
    made = RepresenterPoints(model).fit()
    outputs = model.outputs(model.inputs(X[:9])).detach().reshape(9, -1)
    total = made.contributions(X[:9]).sum(1) + made.offset_.numpy()
    np.testing.assert_allclose(total, outputs.numpy(), atol=1e-6 * float(outputs.abs().max()))
    assert made.residual_ < 1e-6
    assert made.alphas_.shape == (len(X), outputs.shape[1])


def network():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    X = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    return net, X, torch.randint(3, (40,), generator=generator)


def settled(decay):
    """Return a network whose last layer is at the minimum of its objective."""
    net, X, y = network()
    model = wrap(net, train=(X, y), weight_decay=decay)
    objective = model.objective.restrict("last_layer")
    vector = torch.zeros_like(objective.space.vector())
    for _ in range(8):
        here = objective.at(vector)
        vector = vector - torch.linalg.pinv(Hessian(here).dense()) @ here.gradient()
    return model.replace(objective.space, vector), X, y


@pytest.mark.parametrize(
    "decay", [0.05, {"2.weight": 0.05}, {"2.weight": 0.05, "2.bias": 0.2}], ids=["all", "w", "w+b"]
)
def test_a_bias_joins_the_sum_if_it_is_penalised(decay):
    model, X, _ = settled(decay)
    made = RepresenterPoints(model).fit()
    torch.testing.assert_close(
        made.contributions(X).sum(1) + made.offset_, model.outputs(X).detach()
    )
    bias = model.module[2].bias.detach()
    free = isinstance(decay, dict) and "2.bias" not in decay
    torch.testing.assert_close(made.offset_, bias if free else torch.zeros_like(bias))


def test_scores_are_what_a_part_leaving_does():
    model, X, y = settled(0.05)
    made = RepresenterPoints(model).fit()
    parts = made.contributions(X[:5])
    found = made.scores(X[:5], measure=lambda outputs, *_: outputs[:, 1]).values
    torch.testing.assert_close(found, -parts[:, :, 1])
    gradient = model.loss_fn.gradient(model.outputs(X[:5]).detach(), y[:5])
    torch.testing.assert_close(
        made.scores(X[:5], y[:5]).values, -(parts * gradient[:, None]).sum(2)
    )


def test_without_weight_decay_it_says_what_is_missing():
    net, X, y = network()
    for decay in (0.0, {"0.weight": 0.1, "2.bias": 0.1}):
        with pytest.raises(ValueError, match=r"'2\.weight' has no weight decay.*wrap"):
            RepresenterPoints(wrap(net, train=(X, y), weight_decay=decay)).fit()


def test_away_from_the_minimum_it_warns_with_the_part_that_is_missing():
    net, X, y = network()
    model = wrap(net, train=(X, y), weight_decay=0.05)
    with pytest.warns(ApproximationWarning, match="misses .* of the outputs"):
        made = RepresenterPoints(model).fit()
    outputs = model.outputs(X).detach()
    gap = outputs - made.contributions(X).sum(1)
    assert made.residual_ == pytest.approx(float(gap.norm() / outputs.norm()))


def test_a_model_without_a_last_linear_layer_is_refused():
    net, X, y = network()
    with pytest.raises(ValueError, match="last_layer"):
        RepresenterPoints(
            wrap(nn.Sequential(net, nn.Softplus()), task="classification", train=(X, y))
        ).fit()


def test_sequences_have_scores_but_no_parts():
    generator = torch.Generator().manual_seed(0)
    X = torch.randint(5, (12, 4), generator=generator)
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    model = wrap(net, task="language-modeling", train=(X, X.roll(-1, 1)), weight_decay=0.1)
    made = RepresenterPoints(model).fit()
    objective = model.objective.restrict("last_layer")
    rows = objective.rows()
    want = rows[:3] @ rows.T / 0.1
    found = made.scores(X[:3], X[:3].roll(-1, 1), scale="raw").values
    torch.testing.assert_close(found, want)
    with pytest.raises(ValueError, match="sequences"):
        made.contributions(X[:3])
