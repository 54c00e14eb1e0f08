"""Conformal predictive distributions: ranks, quantiles, the score in closed form, groups."""

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression

from trustml.conformal import ConformalPredictiveDistribution, Normalized, SplitRegressor
from trustml.warnings import CoverageWarning


def difficulty(X: np.ndarray) -> np.ndarray:
    return 1 + abs(X[:, 1])


@pytest.fixture(scope="module")
def rows() -> tuple:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(260, 2))
    y = X[:, 0] + rng.gamma(2.0, size=260) * difficulty(X)
    return X[:99], y[:99], X[99:], y[99:]


def first(X: np.ndarray) -> np.ndarray:
    return X[:, 0]


@pytest.fixture(scope="module", params=["absolute", "normalized"])
def fitted(request: pytest.FixtureRequest, rows: tuple) -> ConformalPredictiveDistribution:
    score = Normalized(difficulty) if request.param == "normalized" else "absolute"
    return ConformalPredictiveDistribution(first, score, random_state=0).fit(*rows[:2])


def jumps(cp: ConformalPredictiveDistribution, rows: tuple, X: np.ndarray) -> np.ndarray:
    """Places (n, 99) of the jumps of each row's distribution, by their definition."""
    unit = difficulty if isinstance(cp.score, Normalized) else lambda X: np.ones(len(X))
    residuals = np.sort((rows[1] - rows[0][:, 0]) / unit(rows[0]))
    return X[:, :1] + residuals * unit(X)[:, None]


def test_distribution_function_and_quantiles_are_ranks(
    fitted: ConformalPredictiveDistribution, rows: tuple
) -> None:
    X, y = rows[2:]
    places = jumps(fitted, rows, X)
    below = (places < y[:, None]).sum(1)
    np.testing.assert_allclose(fitted.cdf(X, y), (below + 0.5) / 100)
    grid = np.linspace(-3, 15, 30)
    many = fitted.cdf(X, np.tile(grid, (len(X), 1)))
    assert many.shape == (161, 30)
    assert (np.diff(many, axis=1) >= 0).all()
    np.testing.assert_array_equal(many[:, 7], fitted.cdf(X, np.full(len(X), grid[7])))
    levels = [0.01, 0.05, 0.1, 0.29, 0.5, 0.95, 0.99]
    found = fitted.quantiles(X, levels)
    for k, level in enumerate(levels):
        rank = ceil(100 * Fraction(str(level)))
        np.testing.assert_allclose(found[:, k], places[:, rank - 1], rtol=1e-9)
        np.testing.assert_array_equal(fitted.quantiles(X, level), found[:, k])


def test_intervals_are_those_of_signed_residuals(
    fitted: ConformalPredictiveDistribution, rows: tuple
) -> None:
    split = SplitRegressor(first, fitted.score, symmetric=False).fit(*rows[:2])
    found = fitted.predict_interval(rows[2], [0.02, 0.1, 0.5])
    np.testing.assert_array_equal(found, split.predict_interval(rows[2], [0.02, 0.1, 0.5]))
    places = jumps(fitted, rows, rows[2])
    np.testing.assert_allclose(found[:, :, 1], places[:, [4, 94]], rtol=1e-9)


def test_score_is_the_integral(fitted: ConformalPredictiveDistribution, rows: tuple) -> None:
    X, y = rows[2][:4], np.array([-5.0, 0.5, 2.0, 40.0])
    places, found = jumps(fitted, rows, X), fitted.crps(X, y)
    for i in range(4):
        ends = np.sort(np.append(places[i], y[i]))
        middle, width = (ends[1:] + ends[:-1]) / 2, np.diff(ends)
        step = (places[i] <= middle[:, None]).mean(axis=1) - (y[i] <= middle)
        np.testing.assert_allclose(found[i], (step**2 * width).sum(), rtol=1e-9)


def test_score_of_one_jump_is_the_absolute_error_and_of_many_the_normals() -> None:
    X, y = np.zeros((5, 1)), np.array([-2.0, -0.5, 0.0, 1.0, 3.0])
    one = ConformalPredictiveDistribution(first).fit(np.zeros((1, 1)), np.array([0.25]))
    np.testing.assert_allclose(one.crps(X, y), np.abs(y - 0.25))
    n = 4000
    normal = norm.ppf((np.arange(n) + 0.5) / n) + 1e6  # far from zero nothing is cancelled
    many = ConformalPredictiveDistribution(first).fit(np.zeros((n, 1)), normal)
    exact = y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / np.sqrt(np.pi)
    np.testing.assert_allclose(many.crps(X, y + 1e6), exact, atol=2e-4)
    assert quad(lambda z: (norm.cdf(z) - (z >= 1)) ** 2, -9, 9, points=[1])[0] == pytest.approx(
        exact[3], rel=1e-6
    )


def test_score_prefers_the_true_difficulty(rows: tuple) -> None:
    means = [
        ConformalPredictiveDistribution(first, score).fit(*rows[:2]).crps(*rows[2:]).mean()
        for score in (Normalized(difficulty), "absolute")
    ]
    assert means[0] < 0.97 * means[1]


def test_ties_and_their_random_places() -> None:
    cp = ConformalPredictiveDistribution(first, random_state=3)
    cp.fit(np.zeros((9, 1)), np.array([0.0, 0, 0, 0, 1, 1, 1, 2, 2]))
    X = np.arange(500.0)[:, None]
    np.testing.assert_allclose(cp.cdf(X[:4], X[:4, 0] + [-1, 0, 1, 2]), [0.05, 0.25, 0.6, 0.85])
    places = cp.pit(X, X[:, 0] + 1)  # from 4 of 10 to 8 of 10
    assert 0.4 < places.min() < 0.41
    assert 0.79 < places.max() < 0.8
    np.testing.assert_array_equal(cp.pit(X[:7], X[:7, 0] + 1), places[:7])
    again = ConformalPredictiveDistribution(first, random_state=4).fit(np.zeros((9, 1)), np.ones(9))
    assert not np.array_equal(again.pit(X, X[:, 0] + 1), places)


def test_groups_have_distributions_of_their_own(rows: tuple) -> None:
    X_cal, y_cal, X, y = rows
    side = lambda X: np.where(X[:, 1] > 0, "right", "left")  # noqa: E731
    both = ConformalPredictiveDistribution(first, condition=side, random_state=0).fit(X_cal, y_cal)
    alone = ConformalPredictiveDistribution(first, random_state=0)
    for group in ("left", "right"):
        cal, here = side(X_cal) == group, side(X) == group
        alone.fit(X_cal[cal], y_cal[cal])
        for name in ("cdf", "pit", "crps"):
            mine, theirs = (getattr(cp, name)(X, y) for cp in (both, alone))
            np.testing.assert_allclose(mine[here], theirs[here], rtol=1e-12)
        np.testing.assert_array_equal(both.quantiles(X, 0.8)[here], alone.quantiles(X[here], 0.8))


def test_a_group_without_rows_knows_nothing(rows: tuple) -> None:
    cp = ConformalPredictiveDistribution(first, condition=lambda X: X[:, 0] > 9, random_state=0)
    far = np.full((2, 2), 10.0)
    cp.fit(*rows[:2])
    np.testing.assert_array_equal(cp.cdf(far, [0.0, 1e9]), [0.5, 0.5])
    assert (cp.crps(far, [0.0, 1.0]) == np.inf).all()
    assert ((cp.pit(far, [0.0, 1.0]) > 0) & (cp.pit(far, [0.0, 1.0]) < 1)).all()
    with pytest.warns(CoverageWarning, match="not seen in calibration"):
        assert (cp.quantiles(far, 0.5) == np.inf).all()


def test_levels_beyond_the_sample_are_infinite(rows: tuple) -> None:
    cp = ConformalPredictiveDistribution(first).fit(rows[0][:9], rows[1][:9])
    assert np.isfinite(cp.quantiles(rows[2], [0.01, 0.9])).all()
    with pytest.warns(CoverageWarning, match="at least 19"):
        assert (cp.quantiles(rows[2], 0.95) == np.inf).all()


def test_tensors_in_tensors_out(fitted: ConformalPredictiveDistribution, rows: tuple) -> None:
    X, y = torch.from_numpy(rows[2]), torch.from_numpy(rows[3])
    for name in ("cdf", "pit", "crps"):
        found = getattr(fitted, name)(X, y)
        assert isinstance(found, torch.Tensor)
        np.testing.assert_array_equal(found.numpy(), getattr(fitted, name)(*rows[2:]))
    assert isinstance(fitted.quantiles(X, [0.5]), torch.Tensor)


def test_bad_input(rows: tuple) -> None:
    X, y = rows[2:]
    cp = ConformalPredictiveDistribution(first)
    for ask in (lambda: cp.cdf(X, y), lambda: cp.pit(X, y), lambda: cp.crps(X, y),
                lambda: cp.quantiles(X, 0.5)):  # fmt: skip
        with pytest.raises(NotFittedError):
            ask()
    cp.fit(*rows[:2])
    for levels in (0, 1, 1.5, np.nan, [], [0.5, -0.1], [[0.5]]):
        with pytest.raises(ValueError, match="levels"):
            cp.quantiles(X, levels)
    for values, text in ((y[1:], "161 rows"), (y * np.nan, "NaN")):
        for ask in (cp.cdf, cp.pit, cp.crps):
            with pytest.raises(ValueError, match=text):
                ask(X, values)
    with pytest.raises(ValueError, match="no column"):
        ConformalPredictiveDistribution(first, condition="class").fit(X, y)
    with pytest.raises(TypeError, match="needs a regressor"):
        ConformalPredictiveDistribution(LogisticRegression().fit(X, y > 1)).fit(X, y)
    with pytest.raises(ValueError, match="train="):
        ConformalPredictiveDistribution(LinearRegression().fit(X, y), "normalized").fit(X, y)
