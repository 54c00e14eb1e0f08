"""Difficulty of a row from a model of the residuals, and from the curvature engine."""

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression, PoissonRegressor, Ridge

import trustml
from trustml.conformal import (
    Absolute,
    InfinitesimalJackknife,
    ResidualModel,
    SplitRegressor,
    metrics,
)


def with_train(estimator: object, X: np.ndarray, y: np.ndarray) -> object:
    return trustml.wrap(estimator.fit(X, y), train=(X, y))


def designed(X: np.ndarray) -> np.ndarray:
    return np.column_stack([X, np.ones(len(X))])


@pytest.fixture(scope="module")
def noisy() -> tuple:
    """Noise that grows with the first column, and few training rows far out."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(160, 3))
    return X, X @ [1.0, -2.0, 0.5] + rng.normal(size=160) * (0.2 + np.abs(X[:, 0]))


@pytest.mark.parametrize("penalty", [0.0, 3.0])
def test_the_variance_is_whites_sandwich(noisy: tuple, penalty: float) -> None:
    X, y = noisy
    estimator = Ridge(alpha=penalty) if penalty else LinearRegression()
    model = with_train(estimator, X[:60], y[:60])
    A, new = designed(X[:60]), designed(X[60:])
    inverse = np.linalg.inv(A.T @ A + penalty * np.diag([1.0, 1.0, 1.0, 0.0]))
    residual = y[:60] - estimator.predict(X[:60])
    sandwich = inverse @ (A.T * residual**2) @ A @ inverse
    variance = ((new @ sandwich) * new).sum(1)
    for noise in (1e-12, 1.0):
        found = InfinitesimalJackknife(noise).scale(model)(X[60:])
        expected = np.sqrt(variance + noise * np.mean(residual**2))
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_variance_of_a_mean_behind_a_link(noisy: tuple) -> None:
    X = noisy[0]
    y = np.random.default_rng(1).poisson(np.exp(0.3 * X[:, 0])).astype(float)
    estimator = PoissonRegressor(alpha=0.1, tol=1e-12, max_iter=10_000)
    model = with_train(estimator, X[:100], y[:100])
    A, new = designed(X[:100]), designed(X[100:])
    mean = estimator.predict(X[:100])
    hessian = (A.T * mean) @ A + 100 * 0.1 * np.diag([1.0, 1.0, 1.0, 0.0])
    solved = np.linalg.solve(hessian, A.T * (y[:100] - mean))
    slopes = new * estimator.predict(X[100:])[:, None]
    found = InfinitesimalJackknife(noise=1e-12).scale(model)(X[100:])
    np.testing.assert_allclose(found**2, ((slopes @ solved) ** 2).sum(1), rtol=1e-5)


def test_it_is_the_spread_over_bootstrap_refits(noisy: tuple) -> None:
    X, y = noisy
    model = with_train(Ridge(alpha=1.0), X[:100], y[:100])
    rng, refits = np.random.default_rng(3), []
    for _ in range(400):
        rows = rng.integers(100, size=100)
        refits.append(Ridge(alpha=1.0).fit(X[rows], y[rows]).predict(X[100:]))
    found = InfinitesimalJackknife(noise=1e-12).scale(model)(X[100:])
    spread = np.std(refits, axis=0)
    assert np.corrcoef(found, spread)[0, 1] > 0.95
    assert 0.8 < np.median(found / spread) < 1.1


def test_chunks_and_batches_are_nothing(noisy: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = noisy
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    model = trustml.wrap(
        module.double(), train=(X[:60], y[:60]), weight_decay=0.1, task="regression"
    )
    scale = InfinitesimalJackknife(damping=0.5).scale(model)
    whole = scale(X[60:])
    np.testing.assert_allclose([scale(X[i : i + 1])[0] for i in (60, 61, 159)], whole[[0, 1, -1]])
    monkeypatch.setattr("trustml.conformal._plus_interval._CHUNK_NUMBERS", 200)
    np.testing.assert_allclose(scale(X[60:]), whole)


def test_far_rows_get_wide_intervals_and_others_do_not() -> None:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(90, 6))
    y = X.sum(1) + rng.normal(size=90)
    model = with_train(LinearRegression(), X[:20], y[:20])  # few rows: the fit itself is unsure
    far = np.full((1, 6), 6.0)
    widths = {
        kind.name: np.diff(
            SplitRegressor(model, kind).fit(X[20:], y[20:]).predict_interval(
                np.concatenate([far, X[20:]]), 0.1
            )
        )[:, 0]
        for kind in (Absolute(), InfinitesimalJackknife())
    }  # fmt: skip
    assert widths["infinitesimal_jackknife"][0] > 3 * widths["absolute"][0]
    assert np.median(widths["infinitesimal_jackknife"]) < 1.1 * widths["absolute"][0]


def test_a_residual_model_is_the_users_regressor_of_log_residuals(noisy: tuple) -> None:
    X, y = noisy
    first = LinearRegression()
    model = with_train(first, X[:80], np.round(y[:80], 3))
    residual = np.abs(np.round(y[:80], 3) - first.predict(X[:80]))
    second = Ridge(alpha=2.0)
    found = ResidualModel(second, floor=0.5).scale(model)(X[80:])
    again = Ridge(alpha=2.0).fit(X[:80], np.log(residual + 0.5 * residual.mean()))
    np.testing.assert_allclose(found, np.exp(again.predict(X[80:])), rtol=1e-9)
    assert not hasattr(second, "coef_")  # the user's regressor is not fitted
    constant = ResidualModel(DummyRegressor()).scale(model)(X[80:])
    np.testing.assert_array_equal(constant, constant[0])


def test_a_residual_model_finds_where_the_noise_is() -> None:
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(1200, 2))
    y = X[:, 1] + rng.normal(size=1200) * np.where(X[:, 0] > 0, 2.0, 0.2)
    model = with_train(LinearRegression(), X[:400], y[:400])
    side, gaps = X[800:, 0] > 0, {}
    for score in ("absolute", "residual_model"):
        cp = SplitRegressor(model, score).fit(X[400:800], y[400:800])
        intervals = cp.predict_interval(X[800:], 0.1)
        gaps[score] = metrics.coverage_gap(y[800:], intervals, groups=side)
    width = intervals[:, 1] - intervals[:, 0]
    assert width[side].mean() > 5 * width[~side].mean()
    assert gaps["residual_model"] < gaps["absolute"] / 2


def test_exact_fits_have_scales_too() -> None:
    X = np.random.default_rng(0).normal(size=(40, 2))
    model = with_train(LinearRegression(), X, X @ [1.0, 2.0])
    for score in (ResidualModel(DummyRegressor()), InfinitesimalJackknife()):
        scale = score.scale(model)(X)
        assert (scale > 0).all()
        assert np.isfinite(scale).all()


def test_bad_parameters_and_models(noisy: tuple) -> None:
    X, y = noisy
    for bad in (0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="floor"):
            ResidualModel(floor=bad)
        with pytest.raises(ValueError, match="noise"):
            InfinitesimalJackknife(noise=bad)
    bare = Ridge().fit(X, y)
    for score in ("residual_model", "infinitesimal_jackknife"):
        with pytest.raises(ValueError, match="train="):
            SplitRegressor(bare, score).fit(X, y)
    forest = with_train(RandomForestRegressor(3, random_state=0), X, y)
    with pytest.raises(TypeError, match="gradients"):
        SplitRegressor(forest, "infinitesimal_jackknife").fit(X, y)
