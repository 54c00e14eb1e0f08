"""The jackknife+-after-bootstrap: its definition, kinds, bad input."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

import trustml
from trustml.conformal import JackknifePlusAfterBootstrapRegressor, _plus_interval
from trustml.warnings import CoverageWarning


@pytest.mark.parametrize("method", ["plus", "minmax", "base"])
def test_its_intervals_are_those_of_the_definition(diabetes: object, method: str) -> None:
    X, y = diabetes.X_train[:39], diabetes.y_train[:39]
    model = trustml.wrap(DecisionTreeRegressor(max_depth=3, random_state=0).fit(X, y), train=(X, y))
    cp = JackknifePlusAfterBootstrapRegressor(model, 25, method, random_state=0).fit()
    assert cp.counts_.sum(axis=1).tolist() == [39] * 25
    new = diabetes.X[:20]
    of_models = []
    for counts in cp.counts_:
        rows = np.repeat(np.arange(39), counts)
        tree = DecisionTreeRegressor(max_depth=3, random_state=0).fit(X[rows], y[rows])
        of_models.append((tree.predict(X), tree.predict(new)))
    inside, outside = (np.array(part) for part in zip(*of_models, strict=True))
    lacks = cp.counts_ == 0
    left_out = np.array([inside[lacks[:, i], i].mean() for i in range(39)])
    np.testing.assert_allclose(cp.residuals_, np.abs(y - left_out))
    centres = np.array([outside[lacks[:, i]].mean(axis=0) for i in range(39)])
    limit = np.sort(cp.residuals_)[35]  # ceil(0.9 * 40) = 36
    if method == "plus":
        low = np.sort(centres - cp.residuals_[:, None], axis=0)[3]  # floor(0.1 * 40) = 4
        high = np.sort(centres + cp.residuals_[:, None], axis=0)[35]
    elif method == "minmax":
        low, high = centres.min(axis=0) - limit, centres.max(axis=0) + limit
    else:
        low, high = outside.mean(axis=0) - limit, outside.mean(axis=0) + limit
    np.testing.assert_allclose(cp.predict_interval(new, 0.1), np.stack([low, high], 1))


def test_chunks_change_nothing(diabetes: object, monkeypatch: pytest.MonkeyPatch) -> None:
    cp = JackknifePlusAfterBootstrapRegressor(diabetes.model, 20, random_state=0).fit()
    whole = cp.predict_interval(diabetes.X)
    monkeypatch.setattr(_plus_interval, "_CHUNK_NUMBERS", 1000)
    np.testing.assert_array_equal(cp.predict_interval(diabetes.X), whole)


def test_a_row_in_every_sample(diabetes: object) -> None:
    with pytest.raises(ValueError, match="raise n_models"):
        JackknifePlusAfterBootstrapRegressor(diabetes.model, 2, random_state=0).fit()


def test_preprocessing_that_refits_hold_is_told(diabetes: object) -> None:
    X, y = diabetes.X_train, diabetes.y_train
    pipeline = make_pipeline(StandardScaler(), Ridge()).fit(X, y)
    with pytest.warns(CoverageWarning, match="StandardScaler learnt"):
        JackknifePlusAfterBootstrapRegressor(
            trustml.wrap(pipeline, train=(X, y)), random_state=0
        ).fit()
    anew = trustml.wrap(
        pipeline, train=(X, y),
        train_fn=lambda X, y: make_pipeline(StandardScaler(), Ridge()).fit(X, y),
    )  # fmt: skip
    JackknifePlusAfterBootstrapRegressor(anew, random_state=0).fit()


def test_bad_input(diabetes: object, digits: object) -> None:
    with pytest.raises(TypeError, match="needs a regressor"):
        JackknifePlusAfterBootstrapRegressor(digits.model).fit()
    with pytest.raises(ValueError, match="train="):
        JackknifePlusAfterBootstrapRegressor(LinearRegression().fit([[0.0]], [0.0])).fit()
    with pytest.raises(ValueError, match="n_models"):
        JackknifePlusAfterBootstrapRegressor(diabetes.model, 0).fit()
