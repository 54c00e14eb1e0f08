"""Conformalized quantile regression: each score's formula, crossing, small samples, bad input."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, QuantileRegressor

import trustml
from trustml.conformal import ConformalizedQuantileRegressor, SplitRegressor, metrics, quantile
from trustml.warnings import CoverageWarning


@pytest.fixture(scope="module")
def skewed() -> SimpleNamespace:
    """Noise that grows with x and leans upward, linear quantile models of it."""
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 2, size=(700, 2))
    y = X[:, 1] + X[:, 0] * (rng.gamma(1.0, size=700) - 0.5)
    fits = [
        QuantileRegressor(quantile=q, alpha=0, solver="highs").fit(X[:200], y[:200])
        for q in (0.1, 0.9, 0.5)
    ]
    X_cal, y_cal, X, y = X[200:400], y[200:400], X[400:], y[400:]
    return SimpleNamespace(models=fits, X_cal=X_cal, y_cal=y_cal, X=X, y=y)


def made(data: SimpleNamespace, score: str, symmetric: bool = True) -> object:
    low, high, median = data.models
    median = median if score == "cqr-m" else None
    cp = ConformalizedQuantileRegressor(low, high, score, median, symmetric=symmetric)
    return cp.fit(data.X_cal, data.y_cal)


def units(data: SimpleNamespace, score: str, X: np.ndarray) -> tuple[np.ndarray, ...]:
    low, high, median = (model.predict(X) for model in data.models)
    assert (low < median).all()
    assert (median < high).all()
    one = np.ones(len(X))
    return {
        "cqr": (low, high, one, one),
        "cqr-r": (low, high, high - low, high - low),
        "cqr-m": (low, high, median - low, high - median),
    }[score]


@pytest.mark.parametrize("score", ["cqr", "cqr-r", "cqr-m"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_intervals_are_the_formula(skewed: SimpleNamespace, score: str, symmetric: bool) -> None:
    low, high, a, b = units(skewed, score, skewed.X_cal)
    below, above = (low - skewed.y_cal) / a, (skewed.y_cal - high) / b
    found = made(skewed, score, symmetric).predict_interval(skewed.X, [0.05, 0.1, 0.4])
    assert found.shape == (300, 2, 3)
    low, high, a, b = units(skewed, score, skewed.X)
    for k, alpha in enumerate((0.05, 0.1, 0.4)):
        if symmetric:
            q_low = q_high = quantile(np.maximum(below, above), alpha)
        else:
            q_low, q_high = quantile(below, alpha / 2), quantile(above, alpha / 2)
        expected = np.stack([low - q_low * a, high + q_high * b], axis=1)
        crossed = expected[:, 0] > expected[:, 1]
        assert crossed.mean() < (0.2 if score == "cqr" else 1e-9)
        expected[crossed] = expected[crossed].mean(axis=1, keepdims=True)
        np.testing.assert_allclose(found[..., k], expected, rtol=1e-9)


def test_the_same_model_at_both_ends_is_split_conformal(diabetes: object) -> None:
    cp = ConformalizedQuantileRegressor(diabetes.model, diabetes.model)
    found = cp.fit(diabetes.X_cal, diabetes.y_cal).predict_interval(diabetes.X, [0.1, 0.3])
    split = SplitRegressor(diabetes.model).fit(diabetes.X_cal, diabetes.y_cal)
    np.testing.assert_allclose(found, split.predict_interval(diabetes.X, [0.1, 0.3]), rtol=1e-12)


def test_widths_follow_the_noise_where_a_split_interval_cannot(skewed: SimpleNamespace) -> None:
    split = SplitRegressor(skewed.models[2]).fit(skewed.X_cal, skewed.y_cal)
    one_width = split.predict_interval(skewed.X, 0.1)
    noisy = skewed.X[:, 0] > 1
    for score in ("cqr", "cqr-r", "cqr-m"):
        found = made(skewed, score).predict_interval(skewed.X, 0.1)
        width = found[:, 1] - found[:, 0]
        assert width[noisy].mean() > 2 * width[~noisy].mean()
        assert width.mean() < metrics.interval_width(one_width)


@pytest.mark.parametrize("score", ["cqr", "cqr-r", "cqr-m"])
def test_crossed_quantiles_are_put_in_order(skewed: SimpleNamespace, score: str) -> None:
    swapped = SimpleNamespace(**vars(skewed))
    swapped.models = [skewed.models[k] for k in (1, 0, 2)]
    crossed = made(swapped, score)
    assert crossed.crossed_ == 1.0
    ordered = made(skewed, score)
    assert ordered.crossed_ == 0.0
    np.testing.assert_array_equal(
        crossed.predict_interval(skewed.X, [0.1, 0.3]),
        ordered.predict_interval(skewed.X, [0.1, 0.3]),
    )


def test_a_narrowed_band_that_is_empty_is_a_point() -> None:
    # Wide bands of different widths that always cover: the threshold is below -1/2 of the narrow.
    width = lambda X: 1 + 9 * X[:, 0]  # noqa: E731
    X = np.linspace(0, 1, 99)[:, None] ** 0.1
    cp = ConformalizedQuantileRegressor(lambda X: -width(X), width).fit(X, np.zeros(99))
    narrow, wide = cp.predict_interval(np.array([[0.0], [1.0]]), 0.3)
    np.testing.assert_array_equal(narrow, [0.0, 0.0])
    assert wide[0] < 0 < wide[1]


@pytest.mark.parametrize("score", ["cqr-r", "cqr-m"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_bands_without_width_count_exactly(score: str, symmetric: bool) -> None:
    # Half of the rows have a band of width zero, which no threshold can widen.
    half = lambda X: 1.0 * (X[:, 0] > 0)  # noqa: E731
    median = (lambda X: 0 * X[:, 0]) if score == "cqr-m" else None
    X = np.tile([[0.0], [1.0]], (50, 1))
    y = np.where(np.arange(100) % 20 == 0, 5.0, 0.0)  # five flat rows of a hundred are outside
    cp = ConformalizedQuantileRegressor(lambda X: -half(X), half, score, median, None, symmetric)
    found = cp.fit(X, y).predict_interval(np.array([[0.0], [1.0]]), [0.02, 0.2])
    np.testing.assert_array_equal(found[0, :, 1], [0.0, 0.0])
    assert np.isfinite(found[1, :, 1]).all()
    assert found[0, 1, 0] == np.inf  # the rank falls on a value that no finite widening reaches


@pytest.mark.parametrize("score", ["cqr", "cqr-r", "cqr-m"])
def test_shifting_and_scaling_y_moves_the_intervals_along(
    skewed: SimpleNamespace, score: str
) -> None:
    moved = SimpleNamespace(**vars(skewed))
    moved.models = [lambda X, m=model: 7 - 3 * m.predict(X) for model in skewed.models]
    moved.y_cal = 7 - 3 * skewed.y_cal
    there = made(moved, score).predict_interval(skewed.X, [0.1, 0.4])
    here = made(skewed, score).predict_interval(skewed.X, [0.1, 0.4])
    np.testing.assert_allclose(there, (7 - 3 * here)[:, ::-1], rtol=1e-9)


def test_any_kind_of_model(skewed: SimpleNamespace) -> None:
    X, y = skewed.X_cal, skewed.y_cal
    low, high = (
        GradientBoostingRegressor(loss="quantile", alpha=q, n_estimators=5, random_state=0).fit(
            X, y
        )
        for q in (0.1, 0.9)
    )
    wrapped = [trustml.wrap(model, train=(X, y)) for model in (low, high)]
    called = [low.predict, high.predict]
    answers = [
        ConformalizedQuantileRegressor(*pair).fit(X, y).predict_interval(skewed.X)
        for pair in ([low, high], wrapped, called)
    ]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])
    linear = torch.nn.Linear(2, 1).double()
    cp = ConformalizedQuantileRegressor(linear, high).fit(X, y)
    tensor = cp.predict_interval(torch.from_numpy(skewed.X))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), cp.predict_interval(skewed.X))


def test_groups_are_calibrated_apart(skewed: SimpleNamespace) -> None:
    left = lambda X: X[:, 1] > 1  # noqa: E731
    low, high, _ = skewed.models
    both = ConformalizedQuantileRegressor(low, high, condition=left, symmetric=False)
    found = both.fit(skewed.X_cal, skewed.y_cal).predict_interval(skewed.X, 0.2)
    alone = ConformalizedQuantileRegressor(low, high, symmetric=False)
    for group in (True, False):
        cal, rows = left(skewed.X_cal) == group, left(skewed.X) == group
        alone.fit(skewed.X_cal[cal], skewed.y_cal[cal])
        np.testing.assert_array_equal(alone.predict_interval(skewed.X[rows], 0.2), found[rows])


@pytest.mark.parametrize(("symmetric", "needed"), [(True, 9), (False, 19)])
def test_too_few_rows_are_the_whole_line_with_one_warning(
    skewed: SimpleNamespace, symmetric: bool, needed: int
) -> None:
    low, high, _ = skewed.models
    cp = ConformalizedQuantileRegressor(low, high, symmetric=symmetric)
    cp.fit(skewed.X_cal[: needed - 1], skewed.y_cal[: needed - 1])
    with pytest.warns(CoverageWarning, match=f"at least {needed}") as caught:
        assert np.isinf(cp.predict_interval(skewed.X, 0.1)).all()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    cp.fit(skewed.X_cal[:needed], skewed.y_cal[:needed])
    assert np.isfinite(cp.predict_interval(skewed.X, 0.1)).all()


def test_clone_is_unfitted(skewed: SimpleNamespace) -> None:
    cp = ConformalizedQuantileRegressor(*map(trustml.wrap, skewed.models[:2]))
    copied = clone(cp.fit(skewed.X_cal, skewed.y_cal))
    assert copied.model_lo is cp.model_lo
    assert copied.model_hi is cp.model_hi
    with pytest.raises(NotFittedError):
        copied.predict_interval(skewed.X)


def test_bad_parameters_and_rows(skewed: SimpleNamespace) -> None:
    X, y, (low, high, median) = skewed.X_cal, skewed.y_cal, skewed.models
    make = ConformalizedQuantileRegressor
    for bad, text in (
        (make(low, high, "cqr-x"), "cqr-m"), (make(low, high, "cqr-m"), "model_median"),
        (make(low, high, model_median=median), "model_median"),
        (make(low, high, condition="class"), "no column"),
        (make(low, lambda X: np.full(len(X), np.nan)), "NaN"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            bad.fit(X, y)
    for rows, values, text in (
        (X, y[1:], "200 rows"),
        (X, y * np.nan, "NaN"),
        (X[:, :1], y, "shape"),
    ):
        with pytest.raises(ValueError, match=text):
            make(low, high).fit(rows, values)
    with pytest.raises(TypeError, match="needs a regressor"):
        make(low, LogisticRegression().fit(X, y > 1)).fit(X, y)
