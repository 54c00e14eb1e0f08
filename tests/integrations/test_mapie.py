"""MAPIE's estimators behind our face: their numbers, our shapes, levels and manners."""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, QuantileRegressor, Ridge

from trustml.conformal import JackknifePlusRegressor, SplitClassifier, metrics
from trustml.integrations.mapie import MapieClassifier, MapieRegressor
from trustml.model import wrap
from trustml.warnings import CoverageWarning

pytestmark = pytest.mark.peers
classification = pytest.importorskip("mapie.classification")
regression = pytest.importorskip("mapie.regression")

X, y = load_digits(return_X_y=True)
ORDER = np.random.default_rng(0).permutation(len(y))
X, y = X[ORDER] / 16, np.array(list("abcdefghij"))[y[ORDER]]
CLASSIFIER = LogisticRegression(C=0.05, max_iter=200).fit(X[:300], y[:300])
D, T = load_diabetes(return_X_y=True)
REGRESSOR = Ridge(0.1).fit(D[:150], T[:150])


def quantiles(confidence_level: float) -> object:
    made = regression.ConformalizedQuantileRegressor(
        QuantileRegressor(alpha=0), confidence_level=confidence_level, prefit=False
    )
    return made.fit(D[:150], T[:150])


def series(confidence_level: float) -> object:
    return regression.TimeSeriesRegressor(Ridge(), cv=3)


SETS = {
    "lac": partial(classification.SplitConformalClassifier, CLASSIFIER),
    "aps": partial(classification.SplitConformalClassifier, CLASSIFIER, conformity_score="aps"),
    "cross": partial(classification.CrossConformalClassifier, LogisticRegression(C=0.05), cv=3),
}
INTERVALS = {
    "split": partial(regression.SplitConformalRegressor, REGRESSOR),
    "cross": partial(regression.CrossConformalRegressor, Ridge(0.1), cv=5),
    "bootstrap": partial(regression.JackknifeAfterBootstrapRegressor, Ridge(0.1), resampling=20),
    "quantiles": quantiles,
    "series": series,
}


@pytest.mark.parametrize("kind", SETS)
def test_sets_in_our_shapes(kind: str) -> None:
    cp = MapieClassifier(SETS[kind])
    with pytest.raises(NotFittedError):
        cp.predict_set(X)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    assert cp.fit(X[300:600], y[300:600]) is cp
    sets = cp.predict_set(X[600:800], [0.2, 0.05])
    assert (sets.shape, sets.dtype) == ((200, 10, 2), bool)
    np.testing.assert_array_equal(cp.predict_set(X[600:800], 0.05), sets[..., 1])
    tensor = cp.predict_set(torch.from_numpy(X[600:800]), 0.2)
    np.testing.assert_array_equal(tensor.numpy(), sets[..., 0])
    assert isinstance(tensor, torch.Tensor)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert sorted(float(a) for a in cp.made_) == [0.05, 0.2]
    columns = np.searchsorted(CLASSIFIER.classes_, y[600:800])
    # 300 rows to calibrate and 200 to test: 4.5 standard deviations.
    assert metrics.coverage(columns, sets[..., 0]) >= 0.8 - 4.5 * np.sqrt(
        0.16 * (1 / 300 + 1 / 200)
    )
    assert clone(cp).get_params().keys() == cp.get_params().keys()
    cp.fit(X[300:400], y[300:400])
    assert cp.made_ == {}


def test_their_lac_is_theirs_and_ours() -> None:
    theirs = SETS["lac"](confidence_level=0.9).conformalize(X[300:600], y[300:600])
    expected = theirs.predict_set(X[600:])[1][..., 0]
    cp = MapieClassifier(SETS["lac"]).fit(X[300:600], y[300:600])
    np.testing.assert_array_equal(cp.predict_set(X[600:], 0.1), expected)
    ours = SplitClassifier(CLASSIFIER).fit(X[300:600], y[300:600])
    np.testing.assert_array_equal(ours.predict_set(X[600:], 0.1), expected)


@pytest.mark.parametrize("kind", INTERVALS)
def test_intervals_in_our_shapes(kind: str) -> None:
    cp = MapieRegressor(INTERVALS[kind]).fit(D[150:350], T[150:350])
    found = cp.predict_interval(D[350:], [0.3, 0.1])
    assert found.shape == (92, 2, 2)
    np.testing.assert_array_equal(cp.predict_interval(D[350:], 0.1), found[..., 1])
    assert (found[:, 0] < found[:, 1]).all()
    assert isinstance(cp.predict_interval(torch.from_numpy(D[350:]), 0.1), torch.Tensor)
    covered = metrics.coverage(T[350:], found)
    error = np.sqrt([0.21, 0.09]) * np.sqrt(1 / 92 + 1 / 150)
    assert (covered >= np.array([0.7, 0.9]) - 4.5 * error).all()
    assert covered[0] < 0.95


def test_their_jackknife_plus_is_theirs_and_ours() -> None:
    make = partial(regression.CrossConformalRegressor, Ridge(0.1), cv=-1, method="plus")
    theirs = make(confidence_level=0.9).fit_conformalize(D[:100], T[:100])
    found = MapieRegressor(make).fit(D[:100], T[:100]).predict_interval(D[100:], 0.1)
    np.testing.assert_array_equal(found, theirs.predict_interval(D[100:])[1][..., 0])
    model = wrap(Ridge(0.1).fit(D[:100], T[:100]), train=(D[:100], T[:100]))
    np.testing.assert_allclose(
        found, JackknifePlusRegressor(model).fit().predict_interval(D[100:], 0.1), rtol=1e-8
    )


def test_too_few_rows_are_infinite_aloud() -> None:
    make = partial(regression.CrossConformalRegressor, Ridge(0.1), cv=-1)
    cp = MapieRegressor(make).fit(D[:15], T[:15])
    with pytest.warns(CoverageWarning, match="15 rows are too few for alpha 0.05") as noted:
        found = cp.predict_interval(D[100:], [0.3, 0.05])
    assert len(noted) == 1
    assert np.isinf(found[..., 1]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(cp.predict_interval(D[100:], 0.3)).all()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [(CLASSIFIER, TypeError, "make must be a callable"),
     (lambda confidence_level: Ridge(), TypeError, "Ridge"),
     (partial(regression.SplitConformalRegressor, REGRESSOR), TypeError, "predict_set")],
)  # fmt: skip
def test_what_is_no_estimator_of_theirs(make: Callable, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        MapieClassifier(make).fit(X[300:400], y[300:400]).predict_set(X[:5])


def test_bad_rows() -> None:
    cp = MapieRegressor(INTERVALS["split"])
    for rows, values, text in (
        (D[:50] * np.nan, T[:50], "NaN"), (D[:50], T[:50] * np.nan, "NaN"),
        (D[:50], T[:9], "length"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            cp.fit(rows, values)
    cp.fit(D[150:250], T[150:250])
    with pytest.raises(ValueError, match="NaN"):
        cp.predict_interval(D[:5] * np.nan)
    with pytest.raises(ValueError, match="alpha"):
        cp.predict_interval(D[:5], 1.5)
