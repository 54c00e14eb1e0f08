import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from trustml.explain import IntegratedGradients
from trustml.model import wrap
from trustml.warnings import ConvergenceWarning


def test_linear_models_have_the_closed_form(ridge):
    model, X, _ = ridge
    weight = model.estimator.coef_
    for baseline, start in (
        ("zero", 0.0),
        ("mean", X.mean(0)),
        (X[3], X[3]),
        (X[:4], X[:4].mean(0)),
    ):
        found = IntegratedGradients(model, baseline=baseline).attribute(X[:9])
        np.testing.assert_allclose(found.values, weight * (X[:9] - start), atol=1e-11)
        np.testing.assert_allclose(found.base_values, model.predict(X[:1] * 0 + start)[0])
        assert found.completeness.max() < 1e-10


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.SiLU, nn.Softplus, nn.Sigmoid])
@pytest.mark.parametrize("output", ["logit", "probability"])
def test_smooth_nets_add_up(build, activation, output):
    model, X = build(activation)
    found = IntegratedGradients(model, output=output).attribute(X)
    assert found.values.shape == (60, 6, 3)
    assert found.completeness.max() < 1e-6
    answer = model.logits(X) if output == "logit" else model.predict_proba(X)
    total = found.base_values + found.values.sum(1)
    torch.testing.assert_close(total, answer, rtol=0, atol=1e-6)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Hardtanh])
def test_piecewise_linear_nets_are_integrated_exactly(build, activation):
    model, X = build(activation, sizes=(6, 20, 20, 3))
    found = IntegratedGradients(model).attribute(X)
    assert found.completeness.max() < 1e-12
    fine = brute_force(model, X[:2], 40_000)
    torch.testing.assert_close(found.values[:2], fine, rtol=0, atol=2e-3)


def brute_force(model, X, steps):
    """The midpoint rule with very many steps."""
    found = []
    for x in X:
        t = (torch.arange(steps, dtype=X.dtype) + 0.5) / steps
        points = (t[:, None] * x).requires_grad_()
        logits = model.module(points)
        gradients = [
            torch.autograd.grad(logits[:, k].sum(), points, retain_graph=True)[0].mean(0)
            for k in range(logits.shape[1])
        ]
        found.append(x[:, None] * torch.stack(gradients, 1))
    return torch.stack(found)


def test_single_precision_adds_up_to_its_rounding(build):
    for activation in (nn.Tanh, nn.ReLU):
        model, X = build(activation, dtype=torch.float32)
        found = IntegratedGradients(model).attribute(X)
        assert found.values.dtype == torch.float32
        assert found.completeness.max() < 1e-4
        assert found.passes.max() <= 1200


def test_smooth_rows_cost_few_gradients_and_kinked_ones_more(build):
    smooth, X = build(nn.SiLU)
    kinked, _ = build(nn.ReLU)
    assert set(IntegratedGradients(smooth).attribute(X).passes.tolist()) <= {16, 56}
    passes = IntegratedGradients(kinked, max_passes=200).attribute(X, target=0).passes
    assert passes.max() < 400
    assert passes.max() > 16


def test_too_few_passes_warn_and_are_reported(build):
    model, X = build(nn.ReLU, sizes=(6, 64, 64, 3))
    with pytest.warns(ConvergenceWarning, match="miss completeness"):
        found = IntegratedGradients(model, max_passes=1).attribute(X)
    assert found.completeness.max() > 1e-3


def test_targets_pick_columns(build):
    model, X = build()
    every = IntegratedGradients(model).attribute(X)
    assert every.output_names == ["0", "1", "2"]
    one = IntegratedGradients(model).attribute(X, target=2)
    assert one.output_names is None
    # Rows stop at their own tolerance, which another output may decide.
    torch.testing.assert_close(one.values, every.values[..., 2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.base_values, every.base_values[:, 2])
    predicted = model.predict(X)
    mixed = IntegratedGradients(model).attribute(X, target=predicted)
    index = predicted[:, None, None].expand(-1, 6, 1)
    picked = every.values.gather(2, index).squeeze(2)
    torch.testing.assert_close(mixed.values, picked, rtol=1e-4, atol=1e-5)


def test_labels_are_the_users_own():
    X = np.random.default_rng(0).normal(size=(40, 3))
    y = np.where(X[:, 0] > 0, "yes", "no")
    fitted = LogisticRegression().fit(X, y)
    model = wrap(fitted, train=(X, y))
    explainer = IntegratedGradients(model)
    yes, no = (explainer.attribute(X, target=label) for label in ("yes", "no"))
    np.testing.assert_allclose(yes.values, fitted.coef_[0] * X)
    np.testing.assert_allclose(no.values, -yes.values)
    both = explainer.attribute(X)  # one output: its log-odds, and no output axis
    np.testing.assert_allclose(both.values, yes.values)
    chance = IntegratedGradients(model, output="probability").attribute(X, target="no")
    total = chance.base_values + chance.values.sum(1)
    np.testing.assert_allclose(total, model.predict_proba(X)[:, 0], atol=1e-8)
    with pytest.raises(ValueError, match="maybe"):
        explainer.attribute(X, target="maybe")


def test_the_loss_can_be_explained(build):
    model, X = build()
    y = model.predict(X)
    found = IntegratedGradients(model, output="loss").attribute(X, y=y)
    assert found.values.shape == X.shape
    torch.testing.assert_close(
        found.base_values + found.values.sum(1), model.loss(X, y), rtol=0, atol=1e-6
    )
    with pytest.raises(ValueError, match="pass y="):
        IntegratedGradients(model, output="loss").attribute(X)
    with pytest.raises(ValueError, match="60 rows, but y has 3"):
        IntegratedGradients(model, output="loss").attribute(X, y=y[:3])


def test_train_baselines_are_an_expectation(build):
    model, X = build()
    found = IntegratedGradients(model, baseline="train", n_baselines=100).attribute(X[:3])
    torch.testing.assert_close(found.base_values, model.logits(X).mean(0).expand(3, 3))
    given = IntegratedGradients(model, baseline=X).attribute(X[:3])
    torch.testing.assert_close(found.values, given.values)
    few = IntegratedGradients(model, baseline="train", n_baselines=5, random_state=1)
    torch.testing.assert_close(few.attribute(X[:3]).values, few.attribute(X[:3]).values)


def test_images_keep_their_shape():
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2)
    )
    X = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    model = wrap(net, task="classification", train=(X, [0, 1, 0, 1, 0]))
    found = IntegratedGradients(model, baseline="mean").attribute(X)
    assert found.values.shape == (5, 1, 6, 6, 2)
    assert found.completeness.max() < 1e-5
    assert found.feature_names[7] == "x[0, 1, 1]"


def test_scalers_are_inside_and_units_are_the_users(ridge):
    _, X, y = ridge
    scaled = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y > np.median(y))
    found = IntegratedGradients(scaled, baseline="zero").attribute(X[:4])
    weight = scaled[-1].coef_[0] / scaled[0].scale_
    np.testing.assert_allclose(found.values, weight * X[:4], atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 30.0), rows=st.integers(1, 5))
def test_completeness_holds_for_any_net_and_row(build, seed, scale, rows):
    model, X = build(nn.ReLU if seed % 2 else nn.Tanh, sizes=(6, 8, 8, 2), seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = IntegratedGradients(model, max_passes=4000).attribute(scale * X[:rows])
    size = found.values.abs().sum(1) + found.base_values.abs()
    assert (found.completeness <= 1e-5 * size).all()


def test_bad_settings(build, ridge):
    model, X = build()
    cases = [
        ({"baseline": "blur"}, "baseline must be one of 'zero', 'mean', 'train'"),
        ({"baseline": torch.zeros(4)}, r"baseline must be .* got shape \(4,\)"),
        ({"baseline": torch.full((6,), torch.nan)}, "NaN"),
        ({"output": "odds"}, "output must be one of"),
        ({"tol": 0.0}, "tol must be in"),
        ({"max_passes": 0}, "max_passes must be a positive integer"),
        ({"n_baselines": 0}, "n_baselines must be a positive integer"),
    ]
    for settings_, message in cases:
        with pytest.raises(ValueError, match=message):
            IntegratedGradients(model, **settings_).attribute(X)
    with pytest.raises(TypeError, match="no probabilities"):
        IntegratedGradients(ridge[0], output="probability").attribute(ridge[1])


def test_bad_rows_and_targets(build, ridge):
    model, X = build()
    explainer = IntegratedGradients(model)
    with pytest.raises(ValueError, match="NaN"):
        explainer.attribute(X / 0)
    with pytest.raises(ValueError, match="no rows"):
        explainer.attribute(X[:0])
    with pytest.raises(ValueError, match="shape"):
        explainer.attribute(X[:, :4])
    with pytest.raises(ValueError, match="7"):
        explainer.attribute(X, target=7)
    with pytest.raises(ValueError, match="one a row"):
        explainer.attribute(X, target=[0, 1])
    with pytest.raises(ValueError, match="read by output='loss' only"):
        explainer.attribute(X, y=torch.zeros(60))
    with pytest.raises(ValueError, match=r"output index in 0\.\.0"):
        IntegratedGradients(ridge[0]).attribute(ridge[1], target=1)


def test_models_that_cannot_be_differentiated(ridge, build):
    _, X, y = ridge
    forest = RandomForestRegressor(3, random_state=0).fit(X, y)
    with pytest.raises(TypeError, match=r"explain\.IntegratedGradients.*KernelShap"):
        IntegratedGradients(forest).attribute(X)
    bare = wrap(build()[0].module, task="classification")
    with pytest.raises(ValueError, match="train="):
        IntegratedGradients(bare, baseline="mean").attribute(torch.zeros(2, 6).double())
