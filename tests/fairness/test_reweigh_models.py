"""Weights and steps for networks, last layers, pipelines, regression; bad input."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

from trustml.fairness import FairInfluence
from trustml.fairness._weighted import newton, weighted
from trustml.influence import InfluenceFunctions
from trustml.model import wrap
from trustml.warnings import TrustmlWarning

T, V = slice(0, 300), slice(300, 600)


def biased(n=600, seed=0):
    rng = np.random.default_rng(seed)
    sex = rng.integers(0, 2, n)
    X = np.column_stack([rng.normal(size=n) + sex, rng.normal(size=n), sex + rng.normal(size=n)])
    return X, (X[:, :2].sum(1) + rng.logistic(size=n) > 0.5).astype(int), sex


X, Y, SEX = biased()


def trained(net, dtype, steps=80):
    inputs, labels = torch.as_tensor(X[T], dtype=dtype), torch.as_tensor(Y[T])
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        penalty = sum(p.square().sum() for p in net.parameters())
        value = nn.functional.cross_entropy(net(inputs), labels) + 0.5 * 0.02 * penalty
        value.backward()
        return value

    optimiser.step(loss)
    optimiser.zero_grad()
    return wrap(net, train=(inputs, labels), weight_decay=0.02)


def mlp(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).to(dtype)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRU(1, 2, batch_first=True), nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.cell(x[:, :, None])[0][:, -1])


def recurrent():
    torch.manual_seed(1)
    return trained(Recurrent().double(), torch.float64, 40)


def perceptron():
    estimator = MLPClassifier(
        (4,), "tanh", alpha=0.5, solver="lbfgs", max_iter=3000, tol=1e-9, random_state=0
    )
    return wrap(estimator.fit(X[T], Y[T]), train=(X[T], Y[T]))


def pipeline():
    estimator = make_pipeline(StandardScaler(), LogisticRegression(C=0.5))
    return wrap(estimator.fit(X[T], Y[T]), train=(X[T], Y[T]))


MODELS = {
    "network": (lambda: trained(mlp(), torch.float64), {}),
    "float32": (lambda: trained(mlp(torch.float32), torch.float32), {}),
    "last layer": (lambda: trained(mlp(), torch.float64), {"parameters": "last_layer"}),
    "conjugate gradients": (lambda: trained(mlp(), torch.float64), {"method": "cg", "tol": 1e-6}),
    "recurrent": (recurrent, {}),
    "perceptron": (perceptron, {}),
    "pipeline": (pipeline, {}),
}


@pytest.mark.parametrize("case", MODELS)
def test_steps_reach_the_target(case):
    make, settings = MODELS[case]
    model = make()
    before = copy.deepcopy(model.module.state_dict())
    influence = InfluenceFunctions(model, **settings)
    fair = FairInfluence(model, influence=influence)
    fair.fit(X[V], Y[V], sensitive_features=SEX[V])
    assert fair.residual_ < 1e-3
    reached = fair.reach(0.6 * fair.gap_, tolerance=0.01, steps=2)
    p = reached.model.predict_proba(X[V])[:, 1]
    gap = abs(p[SEX[V] == 1].mean() - p[SEX[V] == 0].mean())
    assert fair.gap_ > 0.1
    assert reached.hit
    assert gap == pytest.approx(reached.path[-1, 1], abs=1e-5)
    assert gap <= 0.6 * fair.gap_ + 0.0101
    assert reached.prediction.residual == fair.residual_
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    if settings.get("parameters") == "last_layer":
        assert torch.equal(reached.model.module[0].weight, before["0.weight"])
        assert not torch.equal(reached.model.module[2].weight, before["2.weight"])


def test_a_network_with_flat_directions_reaches_the_target():
    x, y, sex = biased_network_rows()
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x[T]), y[T]).backward()
        optimiser.step()
    model = wrap(net, train=(x[T], y[T]), weight_decay=0.0)
    with pytest.warns(TrustmlWarning, match="not at a minimum"):
        fair = FairInfluence(model).fit(x[V], y[V], sensitive_features=sex[V])
    assert fair.gap_ > 0.1
    assert fair.reach(steps=2).hit  # with 20 Newton steps a move, a gap of .007 is left


def biased_network_rows():
    rng = np.random.default_rng(2)
    sex = rng.integers(0, 2, 600)
    noise = [rng.normal(size=600) for _ in range(3)]
    columns = np.column_stack([noise[0] + sex, noise[1], sex + 0.7 * noise[2]])
    labels = columns[:, 0] + columns[:, 1] + rng.logistic(size=600) > 0.5
    return torch.as_tensor(columns), torch.as_tensor(labels.astype(int)), sex


def test_a_weighted_objective_is_the_sum_written_out():
    model = trained(mlp(), torch.float64)
    w = np.random.default_rng(0).uniform(0, 2, 300)
    objective = model.objective
    rows = objective.per_example_gradients()
    plain = objective.weight_decay * objective.space.vector()
    here = weighted(objective, w)
    want = rows.T @ torch.as_tensor(w) / 300 + plain
    np.testing.assert_allclose(here.gradient(), want, atol=1e-12)
    losses = model.loss(objective.data.inputs, objective.data.targets).detach().numpy()
    penalty = 0.5 * float((objective.weight_decay * objective.space.vector().square()).sum())
    assert here.value() == pytest.approx((w * losses).mean() + penalty)
    same = weighted(objective, np.ones(300))
    np.testing.assert_allclose(same.gradient(), objective.gradient(), atol=1e-14)


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian", "empirical_fisher"])
def test_weights_of_zero_are_rows_left_out(curvature):
    estimator = LogisticRegression(tol=1e-10, max_iter=2000).fit(X[T], Y[T])
    model = wrap(estimator, train=(X[T], Y[T]))
    influence = InfluenceFunctions(model, curvature=curvature, damping=1e-6).fit()
    w = np.ones(300)
    w[:40] = 0
    vector, remaining = newton(influence, w, steps=50)
    left = model.retrain(np.arange(40, 300)).objective
    assert remaining < 1e-4
    np.testing.assert_allclose(vector, left.space.vector(), atol=1e-3)


def test_regression_reaches_the_target_and_the_refit_agrees():
    data, y = load_diabetes(return_X_y=True)
    sex = data[:, 1] > 0
    model = wrap(Ridge(alpha=0.05).fit(data[:250], y[:250]), train=(data[:250], y[:250]))
    fair = FairInfluence(model).fit(data[250:], y[250:], sensitive_features=sex[250:])
    tolerance = 0.05 * fair.gap_
    reached = fair.reach(0.0, tolerance=tolerance, method="quadratic", refit=True)
    assert reached.hit
    assert reached.prediction.gap[3] <= 1.001 * tolerance
    np.testing.assert_allclose(reached.prediction.gap[3], reached.path[-1, 0], rtol=1e-6)


def test_a_pipeline_of_strings_is_refitted_with_weights_and_its_transformers_stay():
    frame = pd.DataFrame({"income": X[:, 0], "job": np.where(X[:, 1] > 0, "clerk", "cook")})
    words = np.where(Y == 1, "yes", "no")
    encode = make_column_transformer((StandardScaler(), ["income"]), (OneHotEncoder(), ["job"]))
    end = LogisticRegression(tol=1e-10, max_iter=3000, class_weight="balanced")
    estimator = make_pipeline(encode, end).fit(frame[T], words[T])
    model = wrap(estimator, train=(frame[T], words[T]))
    fair = FairInfluence(model).fit(frame[V], words[V], sensitive_features=SEX[V])
    reached = fair.reach(0.7 * fair.gap_, tolerance=1e-3, steps=2, refit=True)
    assert reached.hit
    assert ((reached.weights > 0) & (reached.weights < 1)).any()
    assert reached.prediction.gap[3] == pytest.approx(reached.path[-1, 1], abs=1e-5)
    fair.reweigh(reduction=0.05, loss_budget=1.0, refit=True)
    assert np.isfinite(fair.prediction_.gap).all()


def test_what_cannot_be_refitted_is_refused_before_the_work(monkeypatch):
    fair = FairInfluence(trained(mlp(), torch.float64)).fit(X[V], Y[V], sensitive_features=SEX[V])

    def work(*args, **kwargs):
        pytest.fail("worked before it looked")

    for name in ("Walk", "solved", "search", "predict"):
        monkeypatch.setattr(f"trustml.fairness._fair_influence.{name}", work)
    for call in (
        lambda: fair.reach(refit=True),
        lambda: fair.reweigh(0.1, refit=True),
        lambda: fair.predict_gap(np.full(300, 0.9), refit=True),
    ):
        with pytest.raises(TypeError, match="whose fit takes sample_weight, got Sequential"):
            call()
    for call in (
        lambda: fair.mitigate(refit=True),
        lambda: fair.predict_gap(np.arange(300) > 4, refit=True),
    ):
        with pytest.raises(TypeError, match="pass train_fn="):
            call()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(300), "all weights are 0"),
        (Y[T], r"no training row of the classes \[0\]"),
        (0.5 * Y[T], r"no training row of the classes \[0\]"),
    ],
)
def test_a_refit_needs_rows_of_every_class(fair, weights, message):
    with pytest.raises(ValueError, match=message):
        fair.predict_gap(weights, refit=True)


BAD = {
    "both": ({"target": 0.1, "reduction": 0.5}, "not both"),
    "reduction": ({"reduction": 1.5}, "reduction must be in"),
    "gain": ({"loss_gain": -0.1}, "loss_gain must be in"),
    "budgets": ({"loss_gain": 0.1, "loss_budget": 1.0}, "not both"),
    "method": ({"method": "cubic"}, "method must be one of"),
    "upper": ({"upper": 0.5}, "upper must be"),
}


@pytest.fixture(scope="module")
def fair():
    model = wrap(LogisticRegression().fit(X[T], Y[T]), train=(X[T], Y[T]))
    return FairInfluence(model).fit(X[V], Y[V], sensitive_features=SEX[V])


@pytest.mark.parametrize("case", BAD)
def test_bad_weights_name_the_fix(fair, case):
    given, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        fair.reweigh(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": -0.1}, "target must be"),
        ({"tolerance": np.nan}, "tolerance must be"),
        ({"steps": 0}, "steps"),
        ({"method": "cubic"}, "method must be one of"),
        ({"loss_budget": -1.0}, "loss_budget must be"),
        ({"upper": 0.0}, "upper must be"),
    ],
)
def test_bad_targets_name_the_fix(fair, given, message):
    with pytest.raises(ValueError, match=message):
        fair.reach(**given)


@pytest.mark.parametrize("weights", [np.ones(3), np.full(300, -1.0), np.full(300, np.nan)])
def test_bad_predictions_name_the_fix(fair, weights):
    with pytest.raises(ValueError, match="one a training row"):
        fair.predict_gap(weights)


def test_a_criterion_must_be_differentiable_and_a_number(fair):
    wrong = {
        "differentiable": lambda s, y, g: (s > 0.5).double().mean(),
        "must return a tensor": lambda s, y, g: s.mean().item(),
        "one number": lambda s, y, g: s[:, None],
        "gave": lambda s, y, g: s.mean() / 0,
    }
    for message, criterion in wrong.items():
        with pytest.raises(ValueError, match=message):
            FairInfluence(fair.model_, criterion).fit(X[V], Y[V], sensitive_features=SEX[V])


@pytest.mark.parametrize(
    "criterion",
    [
        lambda s, y, g: (s * y).mean(),
        lambda s, y, g: s @ y.double(),
        lambda s, y, g: s[y == 1].mean(),
    ],
)
def test_a_criterion_that_looks_at_labels_asks_for_them(fair, criterion):
    with pytest.raises(ValueError, match="pass y_val to fit"):
        FairInfluence(fair.model_, criterion).fit(X[V], sensitive_features=SEX[V])


@pytest.mark.parametrize("number", [float, torch.Tensor.item])
def test_a_criterion_without_gradients_is_refused_without_torchs_own_words(fair, number):
    def criterion(s, y, g):
        return torch.tensor(number(s[g == 1].mean() - s[g == 0].mean()))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="differentiable in the scores"):
            FairInfluence(fair.model_, criterion).fit(X[V], Y[V], sensitive_features=SEX[V])


def test_losses_of_all_rows_are_loss_parity(fair):
    for name in ("demographic_parity", "predictive_parity"):
        with pytest.raises(ValueError, match="loss_parity"):
            FairInfluence(fair.model_, name, "loss").fit(X[V], Y[V], sensitive_features=SEX[V])
    with pytest.raises(ValueError, match="pass y_val"):
        FairInfluence(fair.model_, "worst_group").fit(X[V], sensitive_features=SEX[V])


def test_errors_of_string_labels_need_no_favourable_one():
    words = np.array(["deny", "grant", "review"])[np.where(X[:, 1] > 1, 2, Y)]
    model = wrap(LogisticRegression().fit(X[T], words[T]), train=(X[T], words[T]))
    for name in ("error_parity", "loss_parity", "worst_group"):
        fair = FairInfluence(model, name).fit(X[V], words[V], sensitive_features=SEX[V])
        assert fair.row_effects_.shape == (300,)
        wrong = model.predict(X[V]) != words[V]
        errors = [wrong[SEX[V] == g].mean() for g in (0, 1)]
        decided = fair.predict_gap(np.ones(300)).decisions[0]
        want = max(errors) if name == "worst_group" else abs(errors[0] - errors[1])
        assert decided == pytest.approx(want)
