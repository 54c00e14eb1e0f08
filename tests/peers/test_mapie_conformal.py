"""Where MAPIE is right it gives our numbers, and where it is not, a test says so."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, make_regression
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

import trustml
from trustml.conformal import JackknifePlusRegressor, SplitClassifier, SplitRegressor, metrics

pytestmark = pytest.mark.peers
mapie_regression = pytest.importorskip("mapie.regression")
mapie_classification = pytest.importorskip("mapie.classification")


@pytest.mark.parametrize("n", [57, 199])
def test_jackknife_plus_without_refits_is_mapies_with_refits(n: int) -> None:
    X, y = make_regression(n + 50, n_features=10, noise=1.0, random_state=1)
    theirs = mapie_regression.CrossConformalRegressor(
        Ridge(), confidence_level=0.9, cv=-1, method="plus"
    ).fit_conformalize(X[:n], y[:n])
    model = trustml.wrap(Ridge().fit(X[:n], y[:n]), train=(X[:n], y[:n]))
    ours = JackknifePlusRegressor(model).fit().predict_interval(X[n:], 0.1)
    np.testing.assert_allclose(ours, theirs.predict_interval(X[n:])[1][..., 0], rtol=1e-8)


def test_split_intervals_agree() -> None:
    X, y = make_regression(300, n_features=5, noise=1.0, random_state=0)
    fitted = LinearRegression().fit(X[:100], y[:100])
    theirs = mapie_regression.SplitConformalRegressor(fitted, confidence_level=0.9, prefit=True)
    theirs.conformalize(X[100:200], y[100:200])
    ours = SplitRegressor(fitted).fit(X[100:200], y[100:200]).predict_interval(X[200:], 0.1)
    np.testing.assert_allclose(ours, theirs.predict_interval(X[200:])[1][..., 0], rtol=1e-8)


def test_lac_sets_agree_where_their_rank_is_exact() -> None:
    X, y = load_digits(return_X_y=True)
    X = X / 16
    fitted = LogisticRegression(C=0.05).fit(X[:300], y[:300])
    theirs = mapie_classification.SplitConformalClassifier(
        fitted, confidence_level=0.9, conformity_score="lac", prefit=True
    ).conformalize(X[300:800], y[300:800])
    ours = SplitClassifier(fitted).fit(X[300:800], y[300:800]).predict_set(X[800:1200], 0.1)
    np.testing.assert_array_equal(ours, theirs.predict_set(X[800:1200])[1][..., 0])


def test_nine_rows_are_enough_for_ninety_percent() -> None:
    # Rank 9 of 9 is valid; MAPIE asks for n >= 1 / alpha and refuses.
    X, y = make_regression(100, n_features=3, noise=1.0, random_state=0)
    fitted = LinearRegression().fit(X[:50], y[:50])
    theirs = mapie_regression.SplitConformalRegressor(fitted, confidence_level=0.9, prefit=True)
    with pytest.raises(ValueError, match=r"confidence_level|alpha"):
        theirs.conformalize(X[50:59], y[50:59]).predict_interval(X[59:])
    ours = SplitRegressor(fitted).fit(X[50:59], y[50:59]).predict_interval(X[59:], 0.1)
    assert np.isfinite(metrics.interval_width(ours))
