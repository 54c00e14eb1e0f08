"""Full conformal regression: its paths against brute force and refits, kinds, bad input."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression, PoissonRegressor, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import trustml
from trustml.conformal import FullRegressor
from trustml.conformal._full_path import Paths
from trustml.conformal._full_search import hull
from trustml.warnings import CoverageWarning

SCORES = pytest.mark.parametrize("score", ["deleted", "ordinary"])


@pytest.fixture(scope="module")
def rows() -> tuple:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    return X, X.sum(1) + rng.normal(size=60)


@pytest.mark.parametrize("steep", [0.2, 1.5])
def test_ends_of_paths_by_brute_force(steep: float) -> None:
    # Every place where the rank may change is tried, and a point between each two.
    rng = np.random.default_rng(1)
    for _ in range(60):
        n = int(rng.integers(3, 12))
        a, b = rng.normal(size=(1, n)), rng.normal(size=(1, n)) * steep
        a[0, :1] = 0
        b[0, :2] = rng.choice([-1.0, 1.0], 2)  # as steep as the new row: half-lines
        paths, alpha = Paths(a, b, np.ones(1)), Fraction(int(rng.integers(5, 95)), 100)
        with np.errstate(divide="ignore", invalid="ignore"):
            roots = np.concatenate([a / (1 - b), -a / (1 + b)], axis=None)
        roots = np.sort(np.append(roots[np.isfinite(roots)], 0))
        places = np.unique(np.r_[roots[0] - 1, roots, (roots[1:] + roots[:-1]) / 2, roots[-1] + 1])
        inside = np.array([int(paths.ranks(np.array([d]))[0]) > alpha * (n + 1) for d in places])
        low, high = paths.ends([alpha])[0, :, 0]
        assert low == (-np.inf if inside[0] else pytest.approx(places[inside][0]))
        assert high == (np.inf if inside[-1] else pytest.approx(places[inside][-1]))


@SCORES
@pytest.mark.parametrize("estimator", [Ridge(0.5), LinearRegression()], ids=str)
def test_equals_refits_for_least_squares(rows: tuple, score: str, estimator: object) -> None:
    X, y = rows[0][:14] * np.r_[8, np.ones(13)][:, None], rows[1][:14]
    model = trustml.wrap(estimator.fit(X, y), train=(X, y))
    quick, exact = (FullRegressor(model, score, refit=r).fit() for r in (False, True))
    # Ordinary rows, and one far out.
    new, values = rows[0][30:36] * np.r_[np.ones(5), 9][:, None], rows[1][30:36]
    np.testing.assert_array_equal(quick.p_values(new, values), exact.p_values(new, values))
    ends = quick.predict_interval(new, [0.1, 0.4])
    grid = np.linspace(-30, 30, 7)
    for row, end in zip(new[::5], ends[::5], strict=True):
        p = exact.p_values(row[None].repeat(7, 0), grid)
        for a, alpha in enumerate((0.1, 0.4)):
            outside = (grid < end[0, a]) | (grid > end[1, a])
            assert (p[outside] <= alpha).all()
        # The ends are in the set, and a step farther is not.
        for sign, at in ((-1, end[0]), (1, end[1])):
            endless = np.isinf(at)
            assert (exact.p_values(row[None].repeat(2, 0), [sign * 1e9] * 2) > [0.1, 0.4])[
                endless
            ].all()
            at = np.where(endless, 0, at)
            near = exact.p_values(row[None].repeat(2, 0), at - sign * 1e-4)
            beyond = exact.p_values(row[None].repeat(2, 0), at + sign * 1e-4)
            assert (near > [0.1, 0.4])[~endless].all()
            assert (beyond <= [0.1, 0.4])[~endless].all()


def test_a_search_by_refits_finds_the_same_ends(rows: tuple) -> None:
    X, y = rows[0][:25], rows[1][:25]
    model = trustml.wrap(Ridge().fit(X, y), train=(X, y))
    quick, exact = (FullRegressor(model, "ordinary", refit=r).fit() for r in (False, True))
    new = rows[0][30:32]
    np.testing.assert_allclose(
        exact.predict_interval(new, [0.1, 0.3]), quick.predict_interval(new, [0.1, 0.3]), atol=1e-3
    )


@SCORES
def test_one_step_a_value_is_the_path_for_squared_error(rows: tuple, score: str) -> None:
    X, y = rows[0][:40], rows[1][:40]
    full = FullRegressor(trustml.wrap(Ridge().fit(X, y), train=(X, y)), "ordinary").fit()
    path = full.predict_interval(rows[0][40:], [0.1, 0.5])
    p = full.p_values(rows[0][40:], rows[1][40:])
    full._affine = False
    np.testing.assert_allclose(full.predict_interval(rows[0][40:], [0.1, 0.5]), path, atol=1e-6)
    np.testing.assert_array_equal(full.p_values(rows[0][40:], rows[1][40:]), p)


@SCORES
def test_poisson_is_near_its_refits(rows: tuple, score: str) -> None:
    y = np.random.default_rng(2).poisson(np.exp(rows[0][:, 0] / 2 + 1)).astype(float)
    X = rows[0][:40]
    fitted = PoissonRegressor(alpha=0.1, tol=1e-8, solver="newton-cholesky").fit(X, y[:40])
    full = FullRegressor(trustml.wrap(fitted, train=(X, y[:40])), score).fit()
    found = full.diagnose(rows[0][40:], y[40:], 4 if score == "deleted" else 15)
    assert found.mean_gap < 0.02
    low, high = full.predict_interval(rows[0][40:], 0.2).T
    assert (low >= 0).all()  # a count
    twice = np.r_[rows[0][40:], rows[0][40:]]
    p = full.p_values(twice, np.r_[(low - 1e-6).clip(0), high + 1e-6])
    assert (p[np.r_[low > 0, high > 0]] <= 0.2).all()
    assert (full.p_values(twice, np.r_[low + 1e-6, high - 1e-6]) > 0.2).all()


def test_the_search_of_a_known_set() -> None:
    # Ranks n + 1 - 10 |y - c| of nine rows: the set at 0.5 is where |y - c| < 0.5.
    def ranks(y: np.ndarray) -> np.ndarray:
        return np.ceil(10 - 10 * np.abs(y - centre[:, None])).clip(1)

    centre = np.array([0.0, 3.0])
    ends = hull(ranks, centre, 1.0, [Fraction(1, 2), Fraction(1, 11)], 9, 40)
    np.testing.assert_allclose(ends[:, 0, 0], centre - 0.5, atol=1e-6)
    np.testing.assert_allclose(ends[:, 1, 0], centre + 0.5, atol=1e-6)
    assert np.isinf(ends[..., 1]).all()


def test_chunks_change_nothing(rows: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = rows[0][:40], rows[1][:40]
    full = FullRegressor(trustml.wrap(Ridge().fit(X, y), train=(X, y))).fit()
    whole = full.predict_interval(rows[0][40:])
    monkeypatch.setattr("trustml.conformal._plus_interval._CHUNK_NUMBERS", 500)
    np.testing.assert_allclose(full.predict_interval(rows[0][40:]), whole, rtol=1e-12)


def test_models_without_gradients_are_refitted_or_refused(rows: tuple) -> None:
    X, y = rows[0][:15], rows[1][:15]
    forest = trustml.wrap(RandomForestRegressor(3, random_state=0).fit(X, y), train=(X, y))
    with pytest.raises(TypeError, match="refit=True"):
        FullRegressor(forest).fit()
    p = FullRegressor(forest, "ordinary", refit=True).fit().p_values(X[:2], y[:2])
    assert ((p >= 1 / 16) & (p <= 1)).all()


def test_preprocessing_that_saw_the_training_rows_alone_is_told(rows: tuple) -> None:
    fitted = make_pipeline(StandardScaler(), Ridge()).fit(*rows)
    with pytest.warns(CoverageWarning, match="StandardScaler learnt"):
        FullRegressor(trustml.wrap(fitted, train=rows)).fit()


def test_too_few_rows_are_the_whole_line(rows: tuple) -> None:
    X, y = rows[0][:12], rows[1][:12]
    full = FullRegressor(trustml.wrap(Ridge().fit(X, y), train=(X, y))).fit()
    with pytest.warns(CoverageWarning, match="at least 19"):
        ends = full.predict_interval(rows[0][12:], [0.05, 0.2])
    assert np.isinf(ends[..., 0]).all()
    assert np.isfinite(ends[..., 1]).all()


def test_bad_input(rows: tuple, digits: object) -> None:
    with pytest.raises(TypeError, match="needs a regressor"):
        FullRegressor(digits.model).fit()
    with pytest.raises(ValueError, match="train="):
        FullRegressor(Ridge().fit(*rows)).fit()
    model = trustml.wrap(Ridge().fit(*rows), train=rows)
    with pytest.raises(ValueError, match="score must be one of"):
        FullRegressor(model, "absolute").fit()
    full = FullRegressor(model).fit()
    with pytest.raises(ValueError, match="X has 3"):
        full.p_values(rows[0][:3], [1.0])
    with pytest.raises(ValueError, match="NaN"):
        full.p_values(rows[0][:1], [np.nan])
    tensor = full.p_values(torch.from_numpy(rows[0][:3]), torch.from_numpy(rows[1][:3]))
    np.testing.assert_allclose(tensor.numpy(), full.p_values(rows[0][:3], rows[1][:3]))
