"""Jackknife+ and CV+ without refits are those with refits."""

import contextlib

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, PoissonRegressor, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import trustml
from trustml.conformal import CvPlusRegressor, JackknifePlusRegressor, metrics
from trustml.warnings import CoverageWarning

ESTIMATORS = {
    "ridge": lambda: Ridge(alpha=0.5),
    "strong ridge": lambda: Ridge(alpha=50.0),
    "no intercept": lambda: Ridge(alpha=0.1, fit_intercept=False),
    "least squares": LinearRegression,
    "pipeline": lambda: make_pipeline(StandardScaler(), Ridge(alpha=1.0)),
}


@pytest.fixture(scope="module")
def data() -> tuple:
    X, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return X[order], y[order]


@pytest.mark.parametrize("kind", [JackknifePlusRegressor, CvPlusRegressor])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_equal_refits_for_least_squares(data: tuple, name: str, kind: type) -> None:
    X, y = data[0][:90], data[1][:90]
    model = trustml.wrap(ESTIMATORS[name]().fit(X, y), train=(X, y))
    folds = {} if kind is JackknifePlusRegressor else {"folds": 7, "random_state": 0}
    # Both hold the pipeline's scaler, which has learnt from the training rows, and say so.
    told = pytest.warns(CoverageWarning, match="StandardScaler learnt")
    with told if name == "pipeline" else contextlib.nullcontext():
        quick, exact = kind(model, **folds).fit(), kind(model, refit=True, **folds).fit()
    np.testing.assert_allclose(quick.residuals_, exact.residuals_, rtol=1e-8, atol=1e-8)
    for method in ("plus", "minmax", "base"):
        ends = [
            cp.set_params(method=method).predict_interval(data[0][90:130], [0.02, 0.1, 0.5])
            for cp in (quick, exact)
        ]
        np.testing.assert_allclose(*ends, rtol=1e-8)
    assert exact.diagnose(5).relative_gap < 1e-8
    assert quick.diagnose(5).relative_gap < 1e-8


def test_equals_the_closed_form_without_our_refits(data: tuple) -> None:
    # r_i / (1 - h_i): independent of every line of ours but the wrapping.
    X, y = data[0][:120], data[1][:120]
    alpha = 0.3
    centred = X - X.mean(0)
    hat = centred @ np.linalg.solve(centred.T @ centred + alpha * np.eye(10), centred.T) + 1 / 120
    residual = (y - y.mean()) - (hat - 1 / 120) @ (y - y.mean())
    model = trustml.wrap(Ridge(alpha=alpha).fit(X, y), train=(X, y))
    found = JackknifePlusRegressor(model).fit().residuals_
    np.testing.assert_allclose(found, np.abs(residual / (1 - np.diag(hat))), rtol=1e-8)


def test_more_features_than_rows(data: tuple) -> None:
    # It nearly interpolates: in-sample residuals near 1, leave-one-out residuals near 100. Any
    # damping of the curvature would pull the second to the first in silence.
    wide = make_pipeline(PolynomialFeatures(2, include_bias=False), Ridge(alpha=1e-3))
    X, y = data[0][:40] * 10, data[1][:40]
    model = trustml.wrap(wide.fit(X, y), train=(X, y))
    assert model.objective.space.size > 60
    quick = JackknifePlusRegressor(model).fit()
    exact = JackknifePlusRegressor(model, refit=True).fit()
    np.testing.assert_allclose(
        quick.predict_interval(X[:5]), exact.predict_interval(X[:5]), rtol=1e-7
    )


def test_poisson_is_close_to_its_refits(data: tuple) -> None:
    # Not least squares: one Newton step is near, and much nearer than no correction at all.
    X, y = data[0][:60] * 20, data[1][:60]
    fitted = PoissonRegressor(alpha=1.0, solver="newton-cholesky", tol=1e-8).fit(X, y)
    model = trustml.wrap(fitted, train=(X, y))
    quick = JackknifePlusRegressor(model).fit()
    exact = JackknifePlusRegressor(model, refit=True).fit()
    in_sample = np.abs(y - fitted.predict(X))
    error = np.abs(quick.residuals_ - exact.residuals_).mean()
    assert error < 0.05 * np.abs(in_sample - exact.residuals_).mean()
    # A block's steps go on until its gradient is gone: the refit, up to where that stopped.
    folds = {"folds": 6, "random_state": 0}
    quick, exact = (CvPlusRegressor(model, refit=r, **folds).fit() for r in (False, True))
    np.testing.assert_allclose(quick.residuals_, exact.residuals_, rtol=1e-4)


@pytest.mark.parametrize("kind", [JackknifePlusRegressor, CvPlusRegressor])
def test_coverage_over_resplits(data: tuple, kind: type) -> None:
    X, y = data[0][:, 2:5], data[1]
    folds = {} if kind is JackknifePlusRegressor else {"folds": 5, "random_state": 0}
    rng, alpha, resplits = np.random.default_rng(4), 0.1, 200
    covered = {method: np.empty(resplits) for method in ("plus", "minmax")}
    for i in range(resplits):
        order = rng.permutation(len(y))
        train, test = order[:50], order[50:]
        model = trustml.wrap(Ridge(alpha=0.1).fit(X[train], y[train]), train=(X[train], y[train]))
        cp = kind(model, damping=0.0, **folds).fit()
        for method, of in covered.items():
            ends = cp.set_params(method=method).predict_interval(X[test], alpha)
            of[i] = metrics.coverage(y[test], ends)
    # Proven: 1 - 2 alpha - sqrt(2 / 50) for "plus", 1 - alpha for "minmax". Seen on a stable
    # model: 1 - alpha, within 4 standard errors (false alarms: 3e-5).
    for of in covered.values():
        assert of.mean() > 1 - alpha - 4 * of.std() / np.sqrt(resplits)
    assert covered["plus"].mean() < 1 - alpha + 0.02


def test_minmax_holds_the_others(data: tuple) -> None:
    X, y = data[0][:60], data[1][:60]
    model = trustml.wrap(Ridge(alpha=0.1).fit(X, y), train=(X, y))
    for kind in (JackknifePlusRegressor, CvPlusRegressor):
        cp = kind(model).fit()
        plus, minmax, base = (
            cp.set_params(method=method).predict_interval(data[0][60:100], [0.1, 0.4])
            for method in ("plus", "minmax", "base")
        )
        assert (minmax[:, 0] <= plus[:, 0]).all()
        assert (minmax[:, 1] >= plus[:, 1]).all()
        np.testing.assert_allclose(
            base.mean(axis=1), model.predict(data[0][60:100])[:, None].repeat(2, 1)
        )
