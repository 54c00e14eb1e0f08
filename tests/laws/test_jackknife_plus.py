"""Jackknife+ and CV+ without refits are those with refits."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, PoissonRegressor, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import trustml
from trustml.conformal import CvPlusRegressor, JackknifePlusRegressor, metrics

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
    quick, exact = kind(model, **folds).fit(), kind(model, refit=True, **folds).fit()
    np.testing.assert_allclose(quick.residuals_, exact.residuals_, rtol=1e-8, atol=1e-8)
    alphas = [0.02, 0.1, 0.5]
    np.testing.assert_allclose(
        quick.predict_interval(data[0][90:130], alphas),
        exact.predict_interval(data[0][90:130], alphas),
        rtol=1e-8,
    )


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


def test_coverage_is_near_nominal_and_above_its_floor(data: tuple) -> None:
    X, y = data
    rng, alpha, covered = np.random.default_rng(4), 0.1, []
    for _ in range(40):
        order = rng.permutation(len(y))
        train, test = order[:100], order[100:]
        model = trustml.wrap(Ridge(alpha=0.1).fit(X[train], y[train]), train=(X[train], y[train]))
        intervals = JackknifePlusRegressor(model).fit().predict_interval(X[test], alpha)
        covered.append(metrics.coverage(y[test], intervals))
    # The floor 1 - 2 alpha holds for any data; here the mean of 40 splits (sd 0.035 each) lies
    # within 0.03 of the nominal level, more than five standard errors.
    assert abs(np.mean(covered) - (1 - alpha)) < 0.03
    assert np.mean(covered) > 1 - 2 * alpha
