"""Jackknife+ and CV+: chunks, kinds, refits, bad input. Exactness is a law (tests/laws)."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, Ridge

import trustml
from trustml.conformal import CvPlusRegressor, JackknifePlusRegressor, _plus_interval, metrics
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


def test_small_network_follows_its_refits() -> None:
    # A tanh network is not linear in its parameters; warm-started refits are the ground truth.
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(60, 2)))
    y = torch.sin(X[:, 0]) + 0.3 * torch.from_numpy(rng.normal(size=60))
    decay = 0.02

    def trained(start: torch.nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.nn.Module:
        import copy

        module = copy.deepcopy(start)
        optimiser = torch.optim.LBFGS(
            module.parameters(), max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10
        )

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            # The regulariser stays what it was for 60 rows: J minus one row's loss over n.
            penalty = sum((p**2).sum() for p in module.parameters()) * decay / 2
            loss = ((module(X)[:, 0] - y) ** 2).sum() / 60 + penalty
            loss.backward()
            return loss

        optimiser.step(closure)
        return module

    generator = torch.Generator().manual_seed(0)
    start = torch.nn.Sequential(
        torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)
    ).double()
    for p in start.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.5
    fitted = trained(start, X, y)
    model = trustml.wrap(
        fitted, task="regression", train=(X, y), weight_decay=decay,
        train_fn=lambda X, y: trained(fitted, torch.as_tensor(X), torch.as_tensor(y)),
    )  # fmt: skip
    quick = JackknifePlusRegressor(model).fit()
    exact = JackknifePlusRegressor(model, refit=True).fit()
    in_sample = np.abs(y.numpy() - model.predict(X).numpy().ravel())
    error = np.abs(quick.residuals_ - exact.residuals_).mean()
    assert error < 0.2 * np.abs(in_sample - exact.residuals_).mean()
    a, b = quick.predict_interval(X[:20], 0.2), exact.predict_interval(X[:20], 0.2)
    assert (a - b).abs().mean() < 0.02 * (b[:, 1] - b[:, 0]).mean()


def test_damped_models_warn_that_they_have_seen_the_row() -> None:
    # 50 weights, 20 rows, no weight decay: in-sample residuals are zero, and damped leave-one-out
    # steps from there cannot say how wrong the model would have been.
    X = np.random.default_rng(0).normal(size=(20, 50))
    model = trustml.wrap(LinearRegression().fit(X, X[:, 0]), train=(X, X[:, 0]))
    with pytest.warns(CoverageWarning, match=r"damped.*refit=True"):
        JackknifePlusRegressor(model).fit()


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


def test_bad_folds(diabetes: object) -> None:
    for folds, error in ((1, ValueError), (151, ValueError), (2.5, TypeError), (0, ValueError)):
        with pytest.raises(error, match="folds"):
            CvPlusRegressor(diabetes.model, folds).fit()
