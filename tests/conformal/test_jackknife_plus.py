"""Jackknife+ and CV+: chunks, kinds, refits, bad input. Exactness is a law (tests/laws)."""

import copy

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import PredefinedSplit

import trustml
from trustml.conformal import (
    CovariateShift,
    CvPlusRegressor,
    Decay,
    JackknifePlusRegressor,
    Localized,
    _plus_interval,
    metrics,
)
from trustml.warnings import CoverageWarning

BOTH = pytest.mark.parametrize("kind", [JackknifePlusRegressor, CvPlusRegressor])


@BOTH
def test_shapes_levels_and_kinds(diabetes: object, kind: type) -> None:
    cp = kind(diabetes.model).fit()
    several = cp.predict_interval(diabetes.X, [0.3, 0.1])
    assert several.shape == (142, 2, 2)
    np.testing.assert_array_equal(several[..., 1], cp.predict_interval(diabetes.X, 0.1))
    assert (several[:, 0, 1] <= several[:, 0, 0]).all()
    assert (several[:, 1, 0] <= several[:, 1, 1]).all()
    assert isinstance(cp.predict_interval(torch.from_numpy(diabetes.X)), torch.Tensor)
    coverage = metrics.coverage(diabetes.y, several)
    assert (np.abs(coverage - [0.7, 0.9]) < 0.12).all()


@BOTH
def test_chunks_change_nothing(
    diabetes: object, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    cp = kind(diabetes.model).fit()
    whole = cp.predict_interval(diabetes.X)
    monkeypatch.setattr(_plus_interval, "_CHUNK_NUMBERS", 1000)
    np.testing.assert_allclose(cp.predict_interval(diabetes.X), whole, rtol=1e-12)


def test_a_loader_gives_the_same_intervals(diabetes: object) -> None:
    cp = JackknifePlusRegressor(diabetes.model).fit()
    rows = torch.utils.data.TensorDataset(torch.from_numpy(diabetes.X))
    loader = torch.utils.data.DataLoader(rows, batch_size=32)
    np.testing.assert_allclose(
        cp.predict_interval(loader), cp.predict_interval(diabetes.X), rtol=1e-12
    )


@BOTH
def test_models_without_gradients_are_refitted_or_refused(diabetes: object, kind: type) -> None:
    X, y = diabetes.X_train[:25], diabetes.y_train[:25]
    forest = trustml.wrap(RandomForestRegressor(3, random_state=0).fit(X, y), train=(X, y))
    with pytest.raises(TypeError, match="refit=True"):
        kind(forest).fit()
    cp = kind(forest, refit=True).fit()
    assert (len(cp.models_), len(cp.residuals_)) == (
        25 if kind is JackknifePlusRegressor else 10,
        25,
    )
    assert np.isfinite(cp.predict_interval(diabetes.X, 0.2)).all()


def test_the_rows_effects_may_stay_out_of_memory(
    diabetes: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = JackknifePlusRegressor(diabetes.model).fit().predict_interval(diabetes.X)
    monkeypatch.setattr("trustml.conformal._jackknife_plus._HELD", 0)
    cp = JackknifePlusRegressor(diabetes.model).fit()
    np.testing.assert_allclose(cp.predict_interval(diabetes.X), whole, rtol=1e-12)


def minimised(start: torch.nn.Module, X: object, y: object, n: int) -> torch.nn.Module:
    """Full-batch training to a minimum; J minus the missing rows' losses over the same n."""
    module, X, y = copy.deepcopy(start), torch.as_tensor(X), torch.as_tensor(y)
    optimiser = torch.optim.LBFGS(
        module.parameters(), max_iter=60, line_search_fn="strong_wolfe",
        tolerance_grad=1e-7, history_size=40,
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        penalty = sum((p**2).sum() for p in module.parameters()) * DECAY / 2
        loss = ((module(X)[:, 0] - y) ** 2).sum() / n + penalty
        loss.backward()
        return loss

    for _ in range(10):
        optimiser.step(closure)
        if max(p.grad.abs().max() for p in module.parameters()) < 1e-6:
            break
    return module


DECAY = 0.06


@pytest.fixture(scope="module")
def network() -> trustml.Model:
    """A tanh network (4-6-1) at a minimum over 200 noisy rows, where its refits start."""
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(200, 4)))
    y = torch.sin(X[:, 0]) + X[:, 1] / 2 + 0.5 * torch.from_numpy(rng.normal(size=200))
    generator = torch.Generator().manual_seed(0)
    start = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)
    ).double()
    for p in start.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.5
    fitted = minimised(start, X, y, 200)
    return trustml.wrap(
        fitted, task="regression", train=(X, y), weight_decay=DECAY,
        train_fn=lambda X, y: minimised(fitted, X, y, 200),
    )  # fmt: skip


def test_a_network_follows_its_refits_within_three_percent(
    network: trustml.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Refits start from the full model's weights. Uncorrected residuals are those of the model
    # that has seen the row.
    cp = JackknifePlusRegressor(network).fit()
    found = cp.diagnose(40)
    assert found.relative_gap < 0.01
    X = torch.randn(30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = cp.predict_interval(X, 0.2)
    torch.testing.assert_close(cp.predict_interval(X[7:9], 0.2), whole[7:9])
    # One leverage-corrected step alone, where the steps may not go on.
    monkeypatch.setattr("trustml.conformal._refined_steps._WORK", 0)
    stepped = JackknifePlusRegressor(network).fit()
    assert stepped.diagnose(40).relative_gap < 0.03
    width = (whole[:, 1] - whole[:, 0]).mean()
    assert (stepped.predict_interval(X, 0.2) - whole).abs().mean() < 0.01 * width
    in_folds = CvPlusRegressor(network, folds=50, random_state=0).fit().diagnose(4)
    assert in_folds.relative_gap < 0.05


def test_a_network_whose_code_asks_its_values_takes_one_step(network: trustml.Model) -> None:
    class Asks(torch.nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self[1](self[0](x))
            if hidden.abs().max() > 1:  # never; but not to be known for many models at once
                hidden = hidden * 0
            return self[2](hidden)

    asks = trustml.wrap(
        Asks(*network.module), task="regression",
        train=(network.train.inputs, network.train.targets), weight_decay=DECAY,
    )  # fmt: skip
    one = JackknifePlusRegressor(asks).fit()
    followed = JackknifePlusRegressor(network).fit()
    assert np.abs(one.residuals_ - followed.residuals_).mean() < 0.01
    assert not np.array_equal(one.residuals_, followed.residuals_)


def test_damped_models_warn_that_they_have_seen_the_row() -> None:
    # 50 weights, 20 rows, no weight decay: in-sample residuals are zero, and damped leave-one-out
    # steps from there cannot say how wrong the model would have been.
    X = np.random.default_rng(0).normal(size=(20, 50))
    model = trustml.wrap(LinearRegression().fit(X, X[:, 0]), train=(X, X[:, 0]))
    with pytest.warns(CoverageWarning, match=r"damped.*refit=True"):
        JackknifePlusRegressor(model).fit()


@pytest.mark.parametrize("method", ["plus", "minmax", "base"])
def test_equal_weights_change_nothing_and_others_do(diabetes: object, method: str) -> None:
    plain = JackknifePlusRegressor(diabetes.model, method).fit()
    for weights in (lambda X: np.full(len(X), 3.0), Decay(rate=1.0)):
        same = JackknifePlusRegressor(diabetes.model, method, weights).fit()
        np.testing.assert_allclose(
            same.predict_interval(diabetes.X, [0.1, 0.4]),
            plain.predict_interval(diabetes.X, [0.1, 0.4]),
            rtol=1e-12,
        )
    shifted = CovariateShift(diabetes.X[diabetes.X[:, 2] > 0])
    cp = JackknifePlusRegressor(diabetes.model, method, shifted).fit()
    ends = cp.predict_interval(diabetes.X)
    assert cp.weights_.effective_sample_size_ < 140
    assert not np.allclose(ends, plain.predict_interval(diabetes.X))
    np.testing.assert_allclose(cp.predict_interval(diabetes.X[5:8]), ends[5:8], rtol=1e-10)


def test_weights_that_hold_too_little(diabetes: object) -> None:
    cp = JackknifePlusRegressor(diabetes.model, weights=lambda X: np.exp(15 * X[:, 2])).fit()
    far = np.repeat(diabetes.X[:1], 2, axis=0)
    far[:, 2] = 0, 0.5
    with pytest.warns(CoverageWarning, match="1 of 2 rows hold more"):
        ends = cp.predict_interval(far)
    assert np.isinf(ends[1]).all()
    assert np.isfinite(ends[0]).all()
    with pytest.raises(ValueError, match="depend on the new row"):
        JackknifePlusRegressor(diabetes.model, weights=Localized(1.0)).fit()


@BOTH
def test_too_few_rows_are_the_whole_line(diabetes: object, kind: type) -> None:
    X, y = diabetes.X_train[:12], diabetes.y_train[:12]
    cp = kind(trustml.wrap(Ridge().fit(X, y), train=(X, y))).fit()
    with pytest.warns(CoverageWarning, match="at least 19"):
        intervals = cp.predict_interval(diabetes.X, [0.05, 0.2])
    assert np.isinf(intervals[..., 0]).all()
    assert np.isfinite(intervals[..., 1]).all()


@BOTH
def test_bad_input(diabetes: object, digits: object, kind: type) -> None:
    with pytest.raises(NotFittedError):
        kind(diabetes.model).predict_interval(diabetes.X)
    with pytest.raises(ValueError, match="train="):
        kind(diabetes.estimator).fit()
    with pytest.raises(TypeError, match="needs a regressor"):
        kind(digits.model).fit()
    cp = kind(diabetes.model).fit()
    for alpha in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="alpha"):
            cp.predict_interval(diabetes.X, alpha)
    for X, text in ((diabetes.X[:, :4], r"shape \(n, 10\)"), (diabetes.X * np.nan, "NaN"),
                    (diabetes.X[:0], "empty|no rows")):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            cp.predict_interval(X)
    Y = np.stack([diabetes.y_train] * 2, 1)
    two = trustml.wrap(Ridge().fit(diabetes.X_train, Y), train=(diabetes.X_train, Y))
    with pytest.raises(ValueError, match="one output"):
        kind(two).fit()


def test_bad_folds_and_methods(diabetes: object) -> None:
    for folds, error in ((1, ValueError), (151, ValueError), (2.5, TypeError), (0, ValueError)):
        with pytest.raises(error, match="folds"):
            CvPlusRegressor(diabetes.model, folds).fit()
    with pytest.raises(ValueError, match="method must be one of"):
        JackknifePlusRegressor(diabetes.model, method="naive").fit()


@pytest.mark.peers
@pytest.mark.parametrize("method", ["plus", "minmax", "base"])
@BOTH
def test_mapie_with_refits_gives_the_same_intervals(
    diabetes: object, kind: type, method: str
) -> None:
    regression = pytest.importorskip("mapie.regression")
    X, y = diabetes.X_train[:83], diabetes.y_train[:83]
    cp = kind(trustml.wrap(Ridge(0.1).fit(X, y), train=(X, y)), method=method).fit()
    theirs = regression.CrossConformalRegressor(
        Ridge(0.1), confidence_level=0.9, method=method,
        cv=-1 if kind is JackknifePlusRegressor else PredefinedSplit(cp.fold_),
    ).fit_conformalize(X, y)  # fmt: skip
    expected = theirs.predict_interval(diabetes.X)[1][..., 0]
    np.testing.assert_allclose(cp.predict_interval(diabetes.X, 0.1), expected, rtol=1e-9)
