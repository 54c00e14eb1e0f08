"""Coverage in overlapping groups: the program against its definition, special cases, bad input."""

import numpy as np
import pytest
from scipy.optimize import linprog

import trustml
from trustml.conformal import (
    GroupConditionalClassifier,
    GroupConditionalRegressor,
    SplitClassifier,
    SplitRegressor,
)
from trustml.conformal._conditional_limits import conditional_limits
from trustml.evidence import exact_alpha
from trustml.warnings import CoverageWarning

STORED = trustml.precomputed("values")
ALPHAS = [0.05, 0.1, 0.3]


def regression(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    f = rng.normal(size=n)
    return f, f + rng.normal(size=n) * np.exp(f / 2)


def dual_weight(
    scores: np.ndarray, features: np.ndarray, row: np.ndarray, s: float, alpha: float
) -> float:
    """Weight of a new row of score s in the augmented quantile regression, by definition."""
    found = linprog(
        -np.append(scores, s),
        A_eq=np.concatenate([features, row[None]]).T,
        b_eq=np.zeros(len(row)),
        bounds=(-alpha, 1 - alpha),
        method="highs",
    )
    return float(found.x[-1])


@pytest.mark.parametrize("alpha", [0.1, 0.25])
def test_the_limit_is_where_the_dual_weight_gets_full(alpha: float) -> None:
    rng = np.random.default_rng(0)
    features = np.concatenate([np.ones((60, 1)), rng.random((60, 2))], axis=1)
    scores = rng.exponential(size=60) * (1 + features[:, 1])
    rows = np.concatenate([np.ones((8, 1)), rng.random((8, 2))], axis=1)
    limits = conditional_limits(scores, features, rows, [exact_alpha(alpha)])[:, 0]
    for row, limit in zip(rows, limits, strict=True):
        below, above = (
            dual_weight(scores, features, row, limit + step, alpha) for step in (-1e-4, 1e-4)
        )
        assert below < 1 - alpha - 1e-6
        assert above == pytest.approx(1 - alpha, abs=1e-9)


def test_scores_beyond_the_limit_are_above_the_fitted_quantile() -> None:
    rng = np.random.default_rng(1)
    features = np.concatenate([np.ones((40, 1)), rng.random((40, 1)) > 0.5], axis=1)
    scores, row, alpha = rng.exponential(size=40), np.ones(2), 0.2
    limit = conditional_limits(scores, features, row[None], [exact_alpha(alpha)])[0, 0]
    for s in (limit - 0.01, limit + 0.01):
        # The primal: residuals split into what is above and below.
        A, b = np.concatenate([features, row[None]]), np.append(scores, s)
        cost = np.concatenate([np.zeros(2), np.full(41, 1 - alpha), np.full(41, alpha)])
        found = linprog(
            cost, A_eq=np.concatenate([A, np.eye(41), -np.eye(41)], axis=1), b_eq=b,
            bounds=[(None, None)] * 2 + [(0, None)] * 82, method="highs",
        )  # fmt: skip
        assert (s <= row @ found.x[:2] + 1e-9) == (s < limit)


@pytest.mark.parametrize("groups", [None, lambda X: np.ones(len(X))])
def test_one_group_is_split_conformal(digits: object, groups: object) -> None:
    for model, X, y in (
        (digits.model, digits.X_cal, digits.y_cal),
        (digits.model, digits.X_cal[:19], digits.y_cal[:19]),
    ):
        split = SplitClassifier(model).fit(X, y)
        cp = GroupConditionalClassifier(model, groups).fit(X, y)
        np.testing.assert_array_equal(
            cp.predict_set(digits.X, ALPHAS), split.predict_set(digits.X, ALPHAS)
        )


def test_tied_scores_are_in() -> None:
    p = np.repeat([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]], 10, axis=0)
    y = np.zeros(30, dtype=int)
    y[25:] = 1
    model = trustml.precomputed("probabilities")
    split, cp = SplitClassifier(model).fit(p, y), GroupConditionalClassifier(model).fit(p, y)
    for alpha in (0.1, 0.3, 0.6, 0.9):
        np.testing.assert_array_equal(cp.predict_set(p, alpha), split.predict_set(p, alpha))


def test_disjoint_groups_are_calibrated_apart() -> None:
    f, y = regression(0, 300)
    split = SplitRegressor(STORED, condition=lambda f: f > 0).fit(f, y)
    cp = GroupConditionalRegressor(STORED, lambda f: f > 0).fit(f, y)
    np.testing.assert_allclose(
        cp.predict_interval(f[:20], ALPHAS), split.predict_interval(f[:20], ALPHAS)
    )


def test_units_of_scores_and_groups_are_nothing() -> None:
    f, y = regression(0, 120)
    cp = GroupConditionalRegressor(STORED, lambda f: np.exp(f)).fit(f, y)
    found = cp.predict_interval(f[:10], 0.1)
    scaled = GroupConditionalRegressor(STORED, lambda f: 1e6 * np.exp(f)).fit(f, y)
    np.testing.assert_allclose(scaled.predict_interval(f[:10], 0.1), found)
    small = GroupConditionalRegressor(STORED, lambda f: np.exp(f * 1e6)).fit(f / 1e6, y / 1e6)
    np.testing.assert_allclose(small.predict_interval(f[:10] / 1e6, 0.1) * 1e6, found)


def test_order_of_calibration_rows_and_batch_are_nothing() -> None:
    f, y = regression(0, 150)
    groups = lambda f: np.stack([f > 0, np.abs(f) < 1], axis=1)  # noqa: E731
    order = np.random.default_rng(0).permutation(150)
    found = GroupConditionalRegressor(STORED, groups).fit(f, y).predict_interval(f[:30], ALPHAS)
    cp = GroupConditionalRegressor(STORED, groups).fit(f[order], y[order])
    np.testing.assert_allclose(cp.predict_interval(f[:30], ALPHAS), found)
    one = [cp.predict_interval(f[i : i + 1], 0.1) for i in range(5)]
    np.testing.assert_allclose(np.concatenate(one), found[:5, :, 1])


def test_a_group_of_too_few_rows_gets_everything() -> None:
    f, y = regression(0, 200)
    cp = GroupConditionalRegressor(STORED, lambda f: f > np.sort(f)[-5] if len(f) > 9 else f > 1.9)
    cp.fit(f, y)
    with pytest.warns(CoverageWarning, match="1 of 2 rows are in groups with too few") as seen:
        found = cp.predict_interval(np.array([0.0, 9.0]), 0.1)
    assert len(seen) == 1
    assert np.isfinite(found[0]).all()
    assert np.isinf(found[1]).all()
    tiny = GroupConditionalRegressor(STORED).fit(f[:8], y[:8])
    with pytest.warns(CoverageWarning, match="of the 8 calibration rows"):
        assert np.isinf(tiny.predict_interval(f[:3], 0.1)).all()


@pytest.mark.parametrize(
    ("groups", "error", "text"),
    [("sex", TypeError, "callable"), (lambda f: np.ones(3), ValueError, r"shape \(100,\)"),
     (lambda f: np.ones((len(f), 2, 2)), ValueError, "a column a group"),
     (lambda f: np.full(len(f), np.nan), ValueError, "NaN"),
     (lambda f: -np.ones(len(f)), ValueError, "negative"),
     (lambda f: np.full(len(f), "a"), ValueError, "one column a label")],
)  # fmt: skip
def test_bad_groups(groups: object, error: type, text: str) -> None:
    f, y = regression(0, 100)
    with pytest.raises(error, match=text):
        GroupConditionalRegressor(STORED, groups).fit(f, y)


def test_bad_shapes() -> None:
    f, y = regression(0, 100)
    cp = GroupConditionalRegressor(STORED, lambda f: np.ones((len(f), 3 if len(f) > 9 else 2)))
    with pytest.raises(ValueError, match="3 groups for the calibration rows and 2 now"):
        cp.fit(f, y).predict_interval(f[:4], 0.1)
    with pytest.raises(ValueError, match="100 rows"):
        GroupConditionalRegressor(STORED).fit(f, y[1:])
