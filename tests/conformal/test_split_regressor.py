"""Split conformal intervals: formula, difficulty, groups, bad input."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, Ridge

import trustml
from trustml.conformal import Absolute, Normalized, SplitRegressor, metrics, quantile
from trustml.warnings import CoverageWarning


def test_absolute_intervals_are_the_formula(diabetes: object) -> None:
    cp = SplitRegressor(diabetes.estimator).fit(diabetes.X_cal, diabetes.y_cal)
    centre = diabetes.estimator.predict(diabetes.X)
    residual = np.abs(diabetes.y_cal - diabetes.estimator.predict(diabetes.X_cal))
    found = cp.predict_interval(diabetes.X, [0.1, 0.3])
    assert found.shape == (142, 2, 2)
    for k, alpha in enumerate((0.1, 0.3)):
        q = quantile(residual, alpha)
        np.testing.assert_allclose(found[..., k], np.stack([centre - q, centre + q], 1), rtol=1e-9)
        np.testing.assert_array_equal(found[..., k], cp.predict_interval(diabetes.X, alpha))


def test_signed_residuals_are_calibrated_side_by_side(diabetes: object) -> None:
    difficulty = lambda X: 1 + X[:, 2] ** 2 * 100  # noqa: E731
    score = Normalized(difficulty)
    cp = SplitRegressor(diabetes.estimator, score, symmetric=False)
    found = cp.fit(diabetes.X_cal, diabetes.y_cal).predict_interval(diabetes.X, 0.1)
    centre = diabetes.estimator.predict(diabetes.X)
    residual = diabetes.y_cal - diabetes.estimator.predict(diabetes.X_cal)
    above, below = (
        quantile(sign * residual / difficulty(diabetes.X_cal), 0.05) for sign in (1, -1)
    )
    unit = difficulty(diabetes.X)
    expected = np.stack([centre - below * unit, centre + above * unit], 1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_model_that_errs_to_one_side_costs_signed_intervals_nothing() -> None:
    rng = np.random.default_rng(0)
    X, noise = rng.normal(size=(400, 1)), rng.exponential(size=400)
    for symmetric in (True, False):
        biased, right = (
            SplitRegressor(lambda X, b=bias: X[:, 0] + b, symmetric=symmetric)
            .fit(X[:300], X[:300, 0] + noise[:300])
            .predict_interval(X[300:], 0.1)
            for bias in (5.0, 0.0)
        )
        if symmetric:
            assert metrics.interval_width(biased) > 2 * metrics.interval_width(right)
        else:
            np.testing.assert_allclose(biased, right)


def test_normalised_by_a_given_difficulty(diabetes: object) -> None:
    difficulty = lambda X: 1 + X[:, 2] ** 2 * 100  # noqa: E731
    cp = SplitRegressor(diabetes.model, Normalized(difficulty)).fit(diabetes.X_cal, diabetes.y_cal)
    found = cp.predict_interval(diabetes.X, 0.1)
    scores = np.abs(diabetes.y_cal - diabetes.estimator.predict(diabetes.X_cal))
    q = quantile(scores / difficulty(diabetes.X_cal), 0.1)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], 2 * q * difficulty(diabetes.X))


def test_neighbours_find_where_the_noise_is() -> None:
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(1500, 2))
    y = X[:, 1] + rng.normal(size=1500) * np.where(X[:, 0] > 0, 2.0, 0.2)
    model = trustml.wrap(LinearRegression().fit(X[:500], y[:500]), train=(X[:500], y[:500]))
    noisy, gaps = X[1000:, 0] > 0, {}
    for score in ("absolute", "normalized"):
        intervals = (
            SplitRegressor(model, score)
            .fit(X[500:1000], y[500:1000])
            .predict_interval(X[1000:], 0.1)
        )
        gaps[score] = metrics.coverage_gap(y[1000:], intervals, groups=noisy)
        width = intervals[:, 1] - intervals[:, 0]
        ratio = width[noisy].mean() / width[~noisy].mean()
    assert ratio > 3
    assert gaps["normalized"] < gaps["absolute"] / 2


def test_difficulty_of_a_model_without_features(diabetes: object) -> None:
    forest = RandomForestRegressor(10, random_state=0).fit(diabetes.X_train, diabetes.y_train)
    model = trustml.wrap(forest, train=(diabetes.X_train, diabetes.y_train))
    cp = SplitRegressor(model, Normalized(k=10)).fit(diabetes.X_cal, diabetes.y_cal)
    intervals = cp.predict_interval(diabetes.X, 0.2)
    low, high = trustml.evidence.beta_binomial_band(150, 142, 0.2, level=0.999)
    assert low <= metrics.coverage(diabetes.y, intervals) <= high
    assert len(np.unique(np.round(np.diff(intervals), 6))) > 20


def test_groups_are_calibrated_apart(diabetes: object) -> None:
    sex = lambda X: X[:, 1] > 0  # noqa: E731
    cp = SplitRegressor(diabetes.model, condition=sex).fit(diabetes.X_cal, diabetes.y_cal)
    both = cp.predict_interval(diabetes.X, 0.1)
    for group in (True, False):
        cal, rows = sex(diabetes.X_cal) == group, sex(diabetes.X) == group
        alone = SplitRegressor(diabetes.model).fit(diabetes.X_cal[cal], diabetes.y_cal[cal])
        np.testing.assert_allclose(alone.predict_interval(diabetes.X[rows], 0.1), both[rows])


def test_tensors_in_tensors_out_and_torch_modules() -> None:
    torch_rng = torch.Generator().manual_seed(0)
    X = torch.randn(60, 3, generator=torch_rng)
    module = torch.nn.Linear(3, 1)
    cp = SplitRegressor(trustml.wrap(module, task="regression")).fit(X, X.sum(1))
    found = cp.predict_interval(X[:5], 0.1)
    assert isinstance(found, torch.Tensor)
    assert found.shape == (5, 2)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), cp.predict_interval(X[:5].numpy(), 0.1))
    bare = SplitRegressor(module).fit(X, X.sum(1)).predict_interval(X[:5], 0.1)
    assert torch.equal(bare, found)
    values = SplitRegressor(trustml.precomputed("values")).fit(X[:, 0], X.sum(1))
    assert values.predict_interval(X[:5, 0], 0.1).shape == (5, 2)


def test_too_few_rows_are_the_whole_line(diabetes: object) -> None:
    cp = SplitRegressor(diabetes.model).fit(diabetes.X_cal[:8], diabetes.y_cal[:8])
    with pytest.warns(CoverageWarning, match="at least 9"):
        assert np.isinf(cp.predict_interval(diabetes.X, 0.1)).all()


def test_before_fit(diabetes: object) -> None:
    with pytest.raises(NotFittedError):
        SplitRegressor(diabetes.model).predict_interval(diabetes.X)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [({"score": "gamma"}, "'absolute', .*'normalized'"), ({"score": Absolute}, "score must be"),
     ({"condition": "class"}, "no column 'class'"),
     ({"score": Normalized(lambda X: np.zeros(len(X)))}, "above 0"),
     ({"score": Normalized(lambda X: np.ones(3))}, r"shape \(150,\)")],
)  # fmt: skip
def test_bad_parameters(diabetes: object, keywords: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SplitRegressor(diabetes.model, **keywords).fit(diabetes.X_cal, diabetes.y_cal)


def test_bad_difficulty_parameters(diabetes: object) -> None:
    with pytest.raises(ValueError, match="floor"):
        Normalized(floor=0)
    with pytest.raises(ValueError, match="k must"):
        Normalized(k=0)
    with pytest.raises(ValueError, match=r"difficulty=.*train="):
        SplitRegressor(diabetes.estimator, "normalized").fit(diabetes.X_cal, diabetes.y_cal)


@pytest.mark.parametrize(
    ("change", "text"),
    [(lambda X, y: (X[:, :3], y), r"shape \(n, 10\)"), (lambda X, y: (X, y[1:]), "150 rows"),
     (lambda X, y: (X[:0], y[:0]), "empty|no rows"),
     (lambda X, y: (X, np.where(y > 100, np.nan, y)), "NaN"),
     (lambda X, y: (np.where(X > 0.1, np.inf, X), y), "infinite"),
     (lambda X, y: (X, np.stack([y, y], 1)), "columns")],
)  # fmt: skip
def test_bad_rows(diabetes: object, change: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SplitRegressor(diabetes.model).fit(*change(diabetes.X_cal, diabetes.y_cal))


def test_wrong_models(digits: object, diabetes: object) -> None:
    with pytest.raises(TypeError, match="SplitClassifier"):
        SplitRegressor(digits.model).fit(digits.X_cal, digits.y_cal)
    two = Ridge().fit(diabetes.X_train, np.stack([diabetes.y_train] * 2, 1))
    with pytest.raises(ValueError, match="one output"):
        SplitRegressor(two).fit(diabetes.X_cal, np.stack([diabetes.y_cal] * 2, 1))


def test_a_fitted_regressor_can_be_stored(diabetes: object) -> None:
    fitted = SplitRegressor(diabetes.estimator).fit(diabetes.X_cal, diabetes.y_cal)
    restored = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(
        restored.predict_interval(diabetes.X), fitted.predict_interval(diabetes.X)
    )
