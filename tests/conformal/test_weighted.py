"""Weighted split conformal prediction: what weights mean, their estimates, and bad input."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Ridge

import trustml
from trustml.conformal import (
    CovariateShift,
    GroupConditionalClassifier,
    Score,
    SplitClassifier,
    SplitRegressor,
    WeightedClassifier,
    WeightedRegressor,
    Weights,
    quantile,
)
from trustml.conformal._scored import calibrated
from trustml.core.batches import as_data
from trustml.warnings import CoverageWarning

ALPHAS = [0.05, 0.1, 0.3]


def values(seed: int, n: int, centre: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Stored predictions, and outcomes whose spread grows with them."""
    rng = np.random.default_rng(seed)
    f = rng.normal(centre, 1, size=n)
    return f, f + rng.normal(size=n) * np.exp(f / 2)


def tilt(shift: float) -> object:
    """Density ratio of N(shift, 1) to N(0, 1)."""
    return lambda f: np.exp(shift * np.asarray(f) - shift**2 / 2)


STORED = trustml.precomputed("values")


@pytest.mark.parametrize("weights", [None, lambda X: np.full(len(X), 0.1)])
def test_equal_weights_are_split_conformal(
    digits: object, diabetes: object, weights: object
) -> None:
    split = SplitClassifier(digits.model, "aps", random_state=0).fit(digits.X_cal, digits.y_cal)
    cp = WeightedClassifier(digits.model, weights, "aps", random_state=0)
    cp.fit(digits.X_cal, digits.y_cal)
    np.testing.assert_array_equal(
        cp.predict_set(digits.X, ALPHAS), split.predict_set(digits.X, ALPHAS)
    )
    np.testing.assert_allclose(cp.p_values(digits.X), split.p_values(digits.X))
    assert cp.effective_sample_size_ == pytest.approx(600)
    split = SplitRegressor(diabetes.model, "normalized").fit(diabetes.X_cal, diabetes.y_cal)
    cp = WeightedRegressor(diabetes.model, weights, "normalized")
    cp.fit(diabetes.X_cal, diabetes.y_cal)
    np.testing.assert_array_equal(
        cp.predict_interval(diabetes.X, ALPHAS), split.predict_interval(diabetes.X, ALPHAS)
    )


def test_whole_weights_are_repeated_rows_and_zero_is_absent() -> None:
    f, y = values(0, 200)
    times = np.random.default_rng(1).integers(0, 4, size=200)
    cp = WeightedRegressor(STORED, lambda X: times if len(X) == 200 else np.ones(len(X))).fit(f, y)
    repeated = SplitRegressor(STORED).fit(np.repeat(f, times), np.repeat(y, times))
    np.testing.assert_allclose(
        cp.predict_interval(f[:9], ALPHAS), repeated.predict_interval(f[:9], ALPHAS)
    )
    assert cp.effective_sample_size_ == pytest.approx(times.sum() ** 2 / (times**2).sum())


def test_thresholds_are_the_weighted_quantile_of_each_row() -> None:
    (f, y), ratio = values(0, 150), tilt(0.7)
    cp = WeightedRegressor(STORED, ratio).fit(f, y)
    half = np.diff(cp.predict_interval(f[:20], 0.2))[:, 0] / 2
    scores, w = np.abs(y - f), ratio(f)
    for i in range(20):
        below = [w[scores <= s].sum() for s in np.sort(scores)]
        first = np.argmax(np.array(below) >= 0.8 * (w.sum() + w[i]))
        assert half[i] == pytest.approx(np.sort(scores)[first])


def test_the_scale_of_the_weights_is_nothing() -> None:
    (f, y), ratio = values(0, 150), tilt(1.0)
    found = [
        WeightedRegressor(STORED, lambda X, c=c: c * ratio(X)).fit(f, y).predict_interval(f, ALPHAS)
        for c in (1.0, 1e-9, 1e9)
    ]
    np.testing.assert_allclose(found[1], found[0])
    np.testing.assert_allclose(found[2], found[0])


@pytest.mark.parametrize("score", ["lac", "aps", "raps"])
def test_sets_are_p_above_alpha_and_nested(digits: object, score: str) -> None:
    cp = WeightedClassifier(digits.model, lambda X: X[:, 20] + 0.1, score, random_state=0)
    cp.fit(digits.X_cal, digits.y_cal)
    sets, p = cp.predict_set(digits.X, ALPHAS), cp.p_values(digits.X)
    for k, alpha in enumerate(ALPHAS):
        clear = np.abs(p - alpha) > 1e-12
        assert (sets[..., k] == (p > alpha))[clear].all()
    assert (np.diff(sets.astype(int), axis=2) <= 0).all()


def test_a_row_of_too_much_weight_gets_everything() -> None:
    f, y = values(0, 100)
    cp = WeightedRegressor(STORED, tilt(1.0)).fit(f, y)
    with pytest.warns(CoverageWarning, match=r"1 of 2 rows hold more than 0.1") as seen:
        found = cp.predict_interval(np.array([0.0, 9.0]), [0.2, 0.1])
    assert len(seen) == 1
    assert np.isfinite(found[0]).all()
    assert np.isinf(found[1]).all()


def test_few_effective_rows_are_warned_about(digits: object) -> None:
    f, y = values(0, 200)
    with pytest.warns(CoverageWarning, match=r"200 weighted .* worth \d+\.\d rows") as seen:
        cp = WeightedRegressor(STORED, tilt(3.0)).fit(f, y)
    w = tilt(3.0)(f)
    assert cp.effective_sample_size_ == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert cp.effective_sample_size_ < 30
    ink = lambda X: np.exp(X.sum(axis=1))  # noqa: E731
    with pytest.warns(CoverageWarning, match=r"600 weighted .* worth \d+\.\d rows") as sets:
        cp = WeightedClassifier(digits.model, ink).fit(digits.X_cal, digits.y_cal)
    w = ink(digits.X_cal)
    assert cp.effective_sample_size_ == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert cp.effective_sample_size_ < 30
    # Said once, where the user calls fit.
    assert [warned.filename for warned in (*seen, *sets)] == [__file__] * 2


class Learning(Score):
    """Lac, but for classes that are rare in its own share of the rows."""

    name, randomized, share = "learning", False, 0.25

    def __init__(self, lift: torch.Tensor | None = None) -> None:
        self.lift = lift

    def __call__(self, probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        return self.lift - probabilities

    def learnt(self, model: object, probabilities: torch.Tensor, labels: torch.Tensor) -> Score:
        return Learning(labels.bincount(minlength=probabilities.shape[1]) / len(labels))


@pytest.mark.parametrize("kind", [WeightedClassifier, GroupConditionalClassifier])
def test_rows_that_the_score_learns_from_do_not_calibrate(digits: object, kind: type) -> None:
    split = SplitClassifier(digits.model, Learning(), random_state=0)
    split.fit(digits.X_cal, digits.y_cal)
    seen = []
    ones = lambda X: seen.append(X) or np.ones(len(X))  # noqa: E731
    cp = kind(digits.model, ones, Learning(), random_state=0).fit(digits.X_cal, digits.y_cal)
    assert cp.n_calibration_ == len(seen[0]) == 450
    np.testing.assert_array_equal(
        cp.predict_set(digits.X, ALPHAS), split.predict_set(digits.X, ALPHAS)
    )


def test_kept_rows_of_any_container() -> None:
    p = np.random.default_rng(0).dirichlet([1, 1, 1], size=40)
    rows = calibrated(
        trustml.precomputed("probabilities"), Learning(), p, p.argmax(axis=1), random_state=0
    )
    np.testing.assert_array_equal(rows.of(p), p[rows.kept])
    for X in (torch.from_numpy(p), as_data(p, dtype=torch.float64)):
        np.testing.assert_array_equal(rows.of(X).numpy(), p[rows.kept])
    np.testing.assert_array_equal(rows.of({"a": p})["a"], p[rows.kept])
    np.testing.assert_array_equal(rows.of((p, p))[1], p[rows.kept])


def test_tensors_in_tensors_out(digits: object) -> None:
    X, y = torch.from_numpy(digits.X_cal), torch.from_numpy(digits.y_cal)
    cp = WeightedClassifier(digits.model, lambda X: X[:, 20] + 0.1).fit(X, y)
    found = cp.predict_set(X[:4], 0.1)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), cp.predict_set(digits.X_cal[:4], 0.1))


@pytest.mark.parametrize(
    ("weights", "error", "text"),
    [(lambda X: -np.ones(len(X)), ValueError, "not negative"),
     (lambda X: np.full(len(X), np.nan), ValueError, "finite"),
     (lambda X: np.ones((len(X), 2)), ValueError, "100 weights"),
     (lambda X: np.ones(3), ValueError, r"shape \(100,\)"),
     (lambda X: np.zeros(len(X)), ValueError, "weight 0"),
     ("ratio", TypeError, "callable"), (CovariateShift, TypeError, "callable"),
     (CovariateShift(np.ones((5, 2))), ValueError, "2 columns"),
     (CovariateShift(np.array([1.0, np.nan])), ValueError, "NaN"),
     (CovariateShift(np.array(["a"])), ValueError, "rows of numbers"),
     (CovariateShift(np.ones(0)), ValueError, "0 rows"),
     (CovariateShift(np.ones(5), folds=1), ValueError, "folds"),
     (CovariateShift(np.ones(5), classifier=Ridge()), TypeError, "predict_proba"),
     (CovariateShift(np.ones(5), folds=2.0), TypeError, "folds"),
     (CovariateShift(np.ones(1), folds=2), ValueError, "too few")],
)  # fmt: skip
def test_bad_weights(weights: object, error: type, text: str) -> None:
    f, y = values(0, 100)
    with pytest.raises(error, match=text):
        WeightedRegressor(STORED, weights).fit(f, y)


def test_bad_lengths_and_models(digits: object) -> None:
    f, y = values(0, 100)
    with pytest.raises(ValueError, match="100 rows"):
        WeightedRegressor(STORED).fit(f, y[1:])
    with pytest.raises(ValueError, match="600 rows"):
        WeightedClassifier(digits.model).fit(digits.X_cal, digits.y_cal[1:])
    with pytest.raises(TypeError, match="needs a classifier"):
        WeightedClassifier(STORED).fit(f, y)


@pytest.mark.parametrize("held_out", [True, False])
def test_the_ratio_of_two_gaussians_is_found(held_out: bool) -> None:
    f, y = values(0, 2000)
    shift = CovariateShift(values(1, 2000, 1.0)[0], values(2, 2000)[0] if held_out else None)
    cp = WeightedRegressor(STORED, shift).fit(f, y)
    exact = tilt(1.0)(f)
    found = cp.weights_.calibration_
    # Standard errors of the slope and the intercept are about 0.04 each.
    assert np.abs(np.log(found / exact))[np.abs(f) < 2].max() < 0.5
    # E[w]² / E[w²] of this shift is 1/e.
    assert cp.effective_sample_size_ / 2000 == pytest.approx(np.exp(-1), abs=0.1)
    assert not hasattr(shift, "calibration_")
    assert clone(cp).weights.folds == 5


def test_no_shift_costs_little() -> None:
    f, y = values(0, 1000)
    cp = WeightedRegressor(STORED, CovariateShift(values(1, 1000)[0])).fit(f, y)
    assert cp.effective_sample_size_ > 950


@pytest.mark.parametrize("held_out", [True, False])
def test_no_shift_costs_little_in_many_dimensions(held_out: bool) -> None:
    # Pixels that are nearly always 0: a fixed penalty lets one rare pixel outweigh all rows.
    X = load_digits().data[np.random.default_rng(1).permutation(1797)]
    source, calibration, target = X[:500], X[500:1000], X[1000:]
    shift = CovariateShift(target, source if held_out else None)
    cp = WeightedRegressor(lambda X: X[:, 0], shift).fit(calibration, calibration[:, 1])
    assert cp.effective_sample_size_ > 400


def test_the_strength_is_chosen_on_some_of_many_rows() -> None:
    f, y = values(0, 8000)
    cp = WeightedRegressor(STORED, CovariateShift(values(1, 8000, 1.0)[0])).fit(f, y)
    assert cp.effective_sample_size_ / 8000 == pytest.approx(np.exp(-1), abs=0.05)


def test_cross_fitting_keeps_to_the_row() -> None:
    f, y = values(0, 300)
    target, order = values(1, 200, 0.5)[0], np.random.default_rng(0).permutation(300)
    one = WeightedRegressor(STORED, CovariateShift(target)).fit(f, y)
    two = WeightedRegressor(STORED, CovariateShift(target)).fit(f[order], y[order])
    np.testing.assert_allclose(one.weights_.calibration_[order], two.weights_.calibration_)
    forest = RandomForestClassifier(20, min_samples_leaf=10, random_state=0)
    found = WeightedRegressor(STORED, CovariateShift(target, classifier=forest)).fit(f, y)
    # The mean ratio is 1 where it is right; a forest that had seen the rows would be below.
    assert 0.8 < found.weights_.calibration_.mean() < 1.3
    assert not hasattr(forest, "estimators_")


def test_a_weighting_of_ones_own() -> None:
    class FirstHalf(Weights):
        def fit(self, model: object, X: object, y: np.ndarray) -> "FirstHalf":
            self.calibration_ = (np.arange(len(y)) < len(y) / 2).astype(float)
            return self

        def own(self, X: object) -> np.ndarray:
            return np.ones((min(len(X), 3), 1))

    f, y = values(0, 100)
    cp = WeightedRegressor(STORED, FirstHalf()).fit(f, y)
    half = np.diff(cp.predict_interval(f[:1], 0.1))[0, 0] / 2
    assert half == pytest.approx(quantile(np.abs(y - f)[:50], 0.1))
    with pytest.raises(ValueError, match=r"FirstHalf gave own weights of shape \(3, 1\) for 9"):
        cp.predict_interval(f[:9], 0.1)
