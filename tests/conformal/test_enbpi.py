"""EnbPI and SPCI: the ensemble, its ranks, the moving window, the foreseen residual."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, Ridge

import trustml
from trustml.conformal import EnbPi, Spci, metrics
from trustml.warnings import CoverageWarning


@pytest.fixture(scope="module")
def ridge() -> trustml.model.Model:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    y = X.sum(1) + rng.normal(size=80)
    return trustml.wrap(Ridge(alpha=2.0).fit(X, y), train=(X, y))


@pytest.fixture(scope="module")
def series() -> tuple:
    """A linear trend whose errors follow each other: the model cannot see them coming."""
    rng = np.random.default_rng(1)
    t, error = np.arange(420), np.zeros(420)
    for i in range(1, 420):
        error[i] = 0.9 * error[i - 1] + rng.normal()
    X, y = t[:, None] / 420, 5 * t / 420 + error
    model = LinearRegression().fit(X[:300], y[:300])
    return trustml.wrap(model, train=(X[:300], y[:300])), X[300:], y[300:]


def test_newton_steps_are_refits_of_ridge(ridge: object) -> None:
    X = np.random.default_rng(2).normal(size=(20, 3))
    step, refit = (EnbPi(ridge, 12, refit=r, random_state=3).fit() for r in (False, True))
    np.testing.assert_allclose(step.residuals_, refit.residuals_, rtol=1e-7)
    np.testing.assert_allclose(step.predict_interval(X), refit.predict_interval(X), rtol=1e-7)


def test_residuals_are_leave_one_out_means(ridge: object) -> None:
    cp = EnbPi(ridge, 15, random_state=4).fit()
    data, drawn = ridge.train, cp.ensemble_.drawn
    X, y = data.inputs.numpy(), data.targets.numpy().ravel()
    outputs = np.stack([model.predict(X) for model in cp.ensemble_.models])
    means = np.array([outputs[~drawn[:, i], i].mean() for i in range(80)])
    np.testing.assert_allclose(cp.residuals_, y - means)
    new = np.random.default_rng(5).normal(size=(4, 3))
    outputs = np.stack([model.predict(new) for model in cp.ensemble_.models])
    centre = np.mean([outputs[~drawn[:, i]].mean(0) for i in range(80)], axis=0)
    np.testing.assert_allclose(cp.predict_interval(new).mean(axis=1), centre)
    # About 1 - 1/e of the rows are drawn.
    assert abs(drawn.mean() - 0.632) < 0.03


def test_the_rank_is_exact_where_fortuna_interpolates(ridge: object) -> None:
    """B13: fortuna takes quantile(residuals, 1 - alpha), linear, without the (n + 1)."""
    cp = EnbPi(ridge, 15, random_state=0).fit()
    residuals = np.abs(cp.residuals_)
    for alpha in (0.1, 0.25, 0.7):
        rank = math.ceil(81 * (1 - Fraction(str(alpha))))
        half = np.diff(cp.predict_interval(np.zeros((1, 3)), alpha))[0, 0] / 2
        assert half == pytest.approx(np.sort(residuals)[rank - 1], rel=1e-12)
        assert half > np.quantile(residuals, 1 - alpha)


def test_the_interval_is_centred_on_the_prediction_after_updates(ridge: object) -> None:
    cp = EnbPi(ridge, 15, random_state=0).fit()
    X = np.random.default_rng(6).normal(size=(30, 3))
    before = cp.predict_interval(X).mean(axis=1)
    cp.update(X, X.sum(1) + 50)  # far off to one side
    after = cp.predict_interval(X)
    np.testing.assert_allclose(after.mean(axis=1), before, rtol=1e-10)
    assert np.diff(after).min() > 90
    # Signed residuals know the side.
    shifted = EnbPi(ridge, 15, symmetric=False, random_state=0).fit()
    shifted.update(X, X.sum(1) + 50).update(X, X.sum(1) + 50).update(X, X.sum(1) + 50)
    assert (shifted.predict_interval(X)[:, 0] > before).all()


def test_updates_push_out_the_oldest(ridge: object) -> None:
    X = np.random.default_rng(7).normal(size=(80, 3))
    y = X.sum(1)
    cp = EnbPi(ridge, 15, random_state=0).fit()
    old, centre = list(cp.residuals_), cp.ensemble_.predict(X)
    for x, value in zip(X[:30], y[:30], strict=True):
        cp.update(x, value)
    assert len(cp.residuals_) == 80
    np.testing.assert_allclose(list(cp.residuals_)[:50], old[30:])
    np.testing.assert_allclose(list(cp.residuals_)[50:], (y - centre)[:30])
    together = EnbPi(ridge, 15, random_state=0).fit().update(X[:30], y[:30])
    np.testing.assert_allclose(together.residuals_, cp.residuals_)


@pytest.mark.parametrize("n", [9, 18, 40])
def test_the_shortest_interval_keeps_the_ranks_apart(n: int) -> None:
    from trustml.conformal._enbpi import _shortest

    residuals = np.random.default_rng(n).exponential(size=n)
    low, high = _shortest(residuals, Fraction(1, 10))
    rank = math.ceil((n + 1) * 0.9)
    ends = np.concatenate([[-np.inf], np.sort(residuals), [np.inf]])
    widths = [ends[k + rank] - ends[k] for k in range(n + 2 - rank)]
    assert high - low == min(widths)
    assert np.sum((residuals > low) & (residuals <= high)) >= rank - 1
    if n == 40:
        assert high - low < 2 * np.quantile(residuals, 0.9)


def test_too_few_rows_are_the_whole_line() -> None:
    X = np.arange(8.0)[:, None]
    model = trustml.wrap(Ridge().fit(X, X[:, 0]), train=(X, X[:, 0]))
    for symmetric in (True, False):
        cp = EnbPi(model, symmetric=symmetric, random_state=0).fit()
        with pytest.warns(CoverageWarning, match="at least 9"):
            assert np.isinf(cp.predict_interval(X)).all()


@pytest.mark.parametrize("quantiles", ["forest", "linear"])
def test_spci_foresees_what_enbpi_only_measures(series: tuple, quantiles: str) -> None:
    model, X, y = series[0], series[1][:36], series[2][:36]
    intervals = {}
    for name, cp in {
        "enbpi": EnbPi(model, n_models=20, block=20, random_state=0),
        "spci": Spci(model, lags=3, quantiles=quantiles, n_models=20, block=20, random_state=0),
    }.items():
        cp.fit()
        found = []
        for x, value in zip(X, y, strict=True):
            found.append(cp.predict_interval(x[None], 0.1)[0])
            cp.update(x, value)
        intervals[name] = np.array(found)
    width = {name: np.diff(found).mean() for name, found in intervals.items()}
    # An error of this series has 2.3 times the deviation of its innovation.
    assert width["spci"] < width["enbpi"] * 0.75
    # 36 steps: 4 binomial standard errors of 0.1 are 0.2.
    assert abs(metrics.coverage(y, intervals["spci"]) - 0.9) < 0.2


def test_spci_shortest_and_many_levels(series: tuple) -> None:
    model, X, _ = series
    short = (
        Spci(model, n_models=20, block=20, shortest=True, random_state=0)
        .fit()
        .predict_interval(X[:1], 0.1)
    )
    cp = Spci(model, n_models=20, block=20, random_state=0).fit()
    equal = cp.predict_interval(X[:1], 0.1)
    assert np.diff(short)[0, 0] <= np.diff(equal)[0, 0] + 1e-9
    many = cp.predict_interval(torch.from_numpy(X[:3]), [0.3, 0.1])
    assert many.shape == (3, 2, 2)
    np.testing.assert_allclose(many[:1, :, 1].numpy(), equal)


def test_models_without_gradients_are_refitted() -> None:
    rng = np.random.default_rng(8)
    X = rng.uniform(size=(60, 2))
    y = X[:, 0] + 0.1 * rng.normal(size=60)
    forest = RandomForestRegressor(5, random_state=0).fit(X, y)
    model = trustml.wrap(forest, train=(X, y))
    with pytest.raises(TypeError, match=r"EnbPi\(model, refit=True\)"):
        EnbPi(model).fit()
    assert np.isfinite(EnbPi(model, 15, refit=True, random_state=0).fit().predict_interval(X)).all()


def test_bad_input(ridge: object, digits: object) -> None:
    X = np.zeros((3, 3))
    for make in (EnbPi, Spci):
        with pytest.raises(NotFittedError):
            make(ridge).predict_interval(X)
        with pytest.raises(NotFittedError):
            make(ridge).update(X, np.zeros(3))
        with pytest.raises(TypeError, match="regressor"):
            make(digits.model).fit()
        with pytest.raises(ValueError, match="train"):
            make(Ridge().fit(X, np.zeros(3))).fit()
        with pytest.raises(ValueError, match="n_models"):
            make(ridge, n_models=0).fit()
        with pytest.raises(ValueError, match="raise n_models"):
            make(ridge, n_models=1, random_state=0).fit()
        with pytest.raises(ValueError, match="block"):
            make(ridge, block=0).fit()
        with pytest.raises(ValueError, match="3 rows"):
            make(ridge, 15, random_state=0).fit().update(X, np.zeros(2))
    with pytest.raises(ValueError, match="too few"):
        Spci(ridge, lags=75).fit()
    with pytest.raises(ValueError, match="'linear'"):
        Spci(ridge, quantiles="trees").fit()
