"""Weights that fade with age, follow classes, or follow the new row."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

import trustml
from trustml.conformal import (
    Decay,
    LabelShift,
    Localized,
    SplitClassifier,
    SplitRegressor,
    WeightedClassifier,
    WeightedRegressor,
    quantile,
)
from trustml.warnings import CoverageWarning

ALPHAS = [0.05, 0.1, 0.3]
VALUES, PROBABILITIES = trustml.precomputed("values"), trustml.precomputed("probabilities")


def values(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Stored predictions, and outcomes whose spread grows with them."""
    rng = np.random.default_rng(seed)
    f = rng.normal(size=n)
    return f, f + rng.normal(size=n) * np.exp(f / 2)


def labels(seed: int, n: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), size=n)
    return p, (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)


def predicting(guess: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities whose largest is that of the guess."""
    return np.eye(classes)[guess] * 0.5 + 0.5 / classes


def test_without_decay_age_is_nothing() -> None:
    f, y = values(0, 200)
    split = SplitRegressor(VALUES).fit(f, y)
    cp = WeightedRegressor(VALUES, Decay(1.0)).fit(f, y)
    np.testing.assert_array_equal(cp.predict_interval(f, ALPHAS), split.predict_interval(f, ALPHAS))
    assert cp.effective_sample_size_ == pytest.approx(200)


def test_decay_is_the_quantile_of_weights_by_age() -> None:
    f, y = values(0, 300)
    cp = WeightedRegressor(VALUES, Decay(0.97)).fit(f, y)
    half = cp.predict_interval(f[:5], ALPHAS)[:, 1] - f[:5, None]
    age = np.arange(300, 0, -1)
    expected = quantile(np.abs(y - f), ALPHAS, weights=0.97**age, test_weight=1.0)
    np.testing.assert_allclose(half, np.tile(expected, (5, 1)))
    assert cp.effective_sample_size_ == pytest.approx(1.97 / 0.03, rel=0.01)


def test_decay_follows_the_last_rows_and_never_underflows() -> None:
    f = np.zeros(13000)
    y = np.where(np.arange(13000) < 12800, 1.0, 10.0)
    for order, expected in ((slice(None), 10.0), (slice(None, None, -1), 1.0)):
        cp = WeightedRegressor(VALUES, Decay(0.94)).fit(f, y[order])
        assert cp.weights_.calibration_[0] == 0
        found = cp.predict_interval(f[:1], 0.1)
        np.testing.assert_allclose(found, [[-expected, expected]])


def test_decay_of_sets_is_p_above_alpha() -> None:
    p, y = labels(0, 300)
    cp = WeightedClassifier(PROBABILITIES, Decay(0.98), "aps", random_state=0).fit(p, y)
    sets, p_values = cp.predict_set(p, ALPHAS), cp.p_values(p)
    assert p_values.shape == (300, 3)
    for k, alpha in enumerate(ALPHAS):
        assert (sets[..., k] == (p_values > alpha)).all()


@pytest.mark.parametrize("rate", [0, -0.5, 1.01, np.nan, "fast"])
def test_bad_rates(rate: object) -> None:
    with pytest.raises(ValueError, match="rate must be in"):
        WeightedRegressor(VALUES, Decay(rate)).fit(*values(0, 50))


def test_equal_class_ratios_are_split_conformal(digits: object) -> None:
    split = SplitClassifier(digits.model, "aps", random_state=0).fit(digits.X_cal, digits.y_cal)
    cp = WeightedClassifier(
        digits.model, LabelShift(ratio=np.full(10, 3.0)), "aps", random_state=0
    ).fit(digits.X_cal, digits.y_cal)
    np.testing.assert_array_equal(
        cp.predict_set(digits.X, ALPHAS), split.predict_set(digits.X, ALPHAS)
    )
    np.testing.assert_allclose(cp.p_values(digits.X), split.p_values(digits.X))


def test_each_class_has_the_quantile_beside_its_own_ratio() -> None:
    (p, y), ratio = labels(0, 200), np.array([0.2, 1.0, 30.0])
    cp = WeightedClassifier(PROBABILITIES, LabelShift(ratio=ratio)).fit(p, y)
    limits = quantile(1 - p[np.arange(200), y], ALPHAS, weights=ratio[y], test_weight=ratio)
    expected = (1 - p)[:, :, None] <= limits[None]
    np.testing.assert_array_equal(cp.predict_set(p, ALPHAS), expected)
    for k, alpha in enumerate(ALPHAS):
        p_values = cp.p_values(p)
        clear = np.abs(p_values - alpha) > 1e-12
        assert (expected[..., k] == (p_values > alpha))[clear].all()
    shares = ratio[y] / ratio[y].sum()
    assert cp.effective_sample_size_ == pytest.approx(1 / np.square(shares).sum())
    scaled = WeightedClassifier(PROBABILITIES, LabelShift(ratio=1e9 * ratio)).fit(p, y)
    np.testing.assert_array_equal(scaled.predict_set(p, ALPHAS), expected)


@pytest.mark.parametrize("held_out", [False, True])
def test_the_ratio_is_solved_for_exactly_where_frequencies_are_exact(held_out: bool) -> None:
    # Counts of (guess, class); a column is how one class is predicted.
    given = np.array([[6, 1, 2], [3, 8, 2], [1, 1, 6]]) / 10
    before, after = np.array([500, 300, 200]), np.array([100, 300, 600])
    counts = np.rint(given * before).astype(int)
    guess, y = np.repeat(np.indices((3, 3)).reshape(2, -1), counts.ravel(), axis=1)
    there = np.repeat(np.arange(3), np.rint(given @ after).astype(int))
    rows, target = predicting(guess, 3), predicting(there, 3)
    source = (rows, y) if held_out else None
    cal = (rows[::2], y[::2]) if held_out else (rows, y)
    cp = WeightedClassifier(PROBABILITIES, LabelShift(target, source=source)).fit(*cal)
    np.testing.assert_allclose(cp.weights_.ratio_, after / before)
    np.testing.assert_array_equal(cp.weights_.calibration_, (cp.weights_.ratio_)[cal[1]])


def test_ratios_follow_the_order_of_string_labels(digits: object) -> None:
    names = ["dog", "cat", "bird"]
    model = trustml.precomputed("probabilities", class_names=names)
    p, y = labels(0, 200)
    text = np.asarray(names)[y]
    cp = WeightedClassifier(model, LabelShift(ratio=[1, 2, 5])).fit(p, text)
    plain = WeightedClassifier(PROBABILITIES, LabelShift(ratio=[1, 2, 5])).fit(p, y)
    np.testing.assert_array_equal(cp.predict_set(p), plain.predict_set(p))
    found = cp.predict_set(torch.from_numpy(p[:4]))
    assert isinstance(found, torch.Tensor)


def test_classes_that_cannot_be_told_are_warned_about() -> None:
    p, y = labels(0, 300)
    y[y == 1] = 0
    with pytest.warns(CoverageWarning, match=r"without labelled rows: \[1\]") as seen:
        WeightedClassifier(PROBABILITIES, LabelShift(p)).fit(p, y)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    y = np.random.default_rng(0).integers(2, size=3000)
    rows = predicting(np.zeros(3000, dtype=int), 2)
    model = trustml.precomputed("probabilities")
    with pytest.warns(CoverageWarning, match="hardly tell some classes apart"):
        WeightedClassifier(model, LabelShift(rows)).fit(rows, y)


@pytest.mark.parametrize(
    ("weights", "text"),
    [(LabelShift(), "one of X_target and ratio"),
     (LabelShift(np.ones((4, 3)) / 3, ratio=[1, 1, 1]), "one of X_target and ratio"),
     (LabelShift(ratio=[1, 1]), "3 weights"), (LabelShift(ratio=[1, -1, 1]), "not negative"),
     (LabelShift(ratio=[0, 0, 0]), "weight 0"),
     (LabelShift(np.ones((4, 3)) / 3, source=(np.ones((4, 3)) / 3, [0, 1])), "4 rows and 2")],
)  # fmt: skip
def test_bad_label_shifts(weights: LabelShift, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        WeightedClassifier(PROBABILITIES, weights).fit(*labels(0, 100))


def test_label_shift_needs_labels() -> None:
    with pytest.raises(TypeError, match="needs a classifier"):
        WeightedRegressor(VALUES, LabelShift(ratio=[1, 1])).fit(*values(0, 50))


def near(X: np.ndarray) -> np.ndarray:
    """Two places, 1000 apart, by the sign of the stored value."""
    return 1000.0 * (np.asarray(X) > 0)


def test_a_wide_kernel_is_split_conformal(diabetes: object) -> None:
    X, y = diabetes.X_cal, diabetes.y_cal
    split = SplitRegressor(diabetes.model).fit(X, y)
    cp = WeightedRegressor(diabetes.model, Localized(1e9, random_state=0)).fit(X, y)
    np.testing.assert_allclose(
        cp.predict_interval(diabetes.X, ALPHAS), split.predict_interval(diabetes.X, ALPHAS)
    )
    assert cp.effective_sample_size_ == pytest.approx(150)


@pytest.mark.parametrize(
    "weights",
    [Localized(5.0, near, random_state=0),
     Localized([5.0, 1e9], lambda X: np.stack([near(X), np.asarray(X)], axis=1), 1)],
    ids=["one bandwidth", "each column's"],
)  # fmt: skip
def test_rows_at_one_place_are_calibrated_alone(weights: Localized) -> None:
    f, y = values(0, 300)
    split = SplitRegressor(VALUES, condition=lambda f: f > 0).fit(f, y)
    cp = WeightedRegressor(VALUES, weights).fit(f, y)
    np.testing.assert_allclose(
        cp.predict_interval(f[:40], ALPHAS), split.predict_interval(f[:40], ALPHAS)
    )
    # About half of the rows are near each.
    assert 120 < cp.effective_sample_size_ < 180


def test_a_place_is_a_function_of_seed_and_row() -> None:
    f, y = values(0, 300)
    order = np.random.default_rng(0).permutation(300)
    cp = WeightedRegressor(VALUES, Localized(0.3, random_state=0)).fit(f, y)
    new = f[np.abs(f) < 1][:30]
    found = cp.predict_interval(new, [0.1, 0.3])
    again = WeightedRegressor(VALUES, Localized(0.3, random_state=0)).fit(f[order], y[order])
    np.testing.assert_allclose(again.predict_interval(new[::-1], [0.1, 0.3])[::-1], found)
    assert again.effective_sample_size_ == pytest.approx(cp.effective_sample_size_)
    other = WeightedRegressor(VALUES, Localized(0.3, random_state=1)).fit(f, y)
    assert (other.predict_interval(new, [0.1, 0.3]) != found).any()
    assert not hasattr(cp.weights, "rows_")
    assert clone(cp).weights.bandwidth == 0.3


@pytest.mark.parametrize("bandwidth", ["auto", None, True])
def test_a_bandwidth_is_a_number(bandwidth: object) -> None:
    with pytest.raises(TypeError, match="bandwidth must be a positive number"):
        WeightedRegressor(VALUES, Localized(bandwidth)).fit(*values(0, 30))


def test_localized_sets_are_p_above_alpha() -> None:
    p, y = labels(0, 300)
    cp = WeightedClassifier(PROBABILITIES, Localized(0.5, random_state=0)).fit(p, y)
    sets, p_values = cp.predict_set(p[:50], ALPHAS), cp.p_values(p[:50])
    for k, alpha in enumerate(ALPHAS):
        clear = np.abs(p_values - alpha) > 1e-12
        assert (sets[..., k] == (p_values > alpha))[clear].all()
    np.testing.assert_allclose(cp.p_values(p[7:8]), p_values[7:8])
    # What a row weighs beside others is at most what it weighs alone.
    assert (cp.weights_.own(p[:50]) <= 1).all()


def test_a_lonely_row_gets_everything() -> None:
    f, y = values(0, 200)
    cp = WeightedRegressor(VALUES, Localized(0.5, random_state=0)).fit(f, y)
    with pytest.warns(CoverageWarning, match=r"1 of 2 rows hold more than 0.1") as seen:
        found = cp.predict_interval(np.array([0.0, 1e6]), 0.1)
    assert len(seen) == 1
    assert np.isfinite(found).all(axis=1).tolist() == [True, False]
    with pytest.warns(CoverageWarning, match="worth 1.0 rows of equal weight"):
        WeightedRegressor(VALUES, Localized(1e-9, random_state=0)).fit(f, y)


@pytest.mark.parametrize(
    ("weights", "text"),
    [(Localized(0.0), "positive"), (Localized(-1), "positive"), (Localized(np.nan), "positive"),
     (Localized([1, 2]), r"shape \(1,\)"),
     (Localized(space=lambda X: np.full(len(X), np.nan)), "NaN"),
     (Localized(space=lambda X: np.full(len(X), "a")), "rows of numbers"),
     (Localized(random_state=-1), "random_state")],
)  # fmt: skip
def test_bad_localizations(weights: Localized, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        WeightedRegressor(VALUES, weights).fit(*values(0, 50))


def test_rows_of_another_width_are_refused() -> None:
    widths = iter([1, 2])
    space = lambda X: np.ones((len(X), next(widths)))  # noqa: E731
    f, y = values(0, 50)
    cp = WeightedRegressor(VALUES, Localized(space=space)).fit(f, y)
    with pytest.raises(ValueError, match="2 columns"):
        cp.predict_interval(f)
