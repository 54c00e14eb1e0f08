"""The promises of conformal regression beyond one width, against their exact laws.

Calibration and test rows are drawn afresh from one law or permuted within one pool, so the number
of covered test rows is Beta-Binomial exactly, whatever the models. Every bound below is placed so
that a correct predictor breaks it less often than once in ten thousand runs.
"""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.datasets import load_diabetes
from sklearn.linear_model import QuantileRegressor, Ridge

import trustml
from trustml.conformal import (
    ConformalizedQuantileRegressor,
    ConformalPredictiveDistribution,
    InfinitesimalJackknife,
    Normalized,
    ResidualModel,
    SplitRegressor,
    metrics,
)
from trustml.evidence import beta_binomial_band, ks_test

RESPLITS, N_CAL, FALSE_ALARM = 200, 120, 1e-4


@pytest.fixture(scope="module")
def pool() -> tuple:
    """Rows of diabetes that quantile models have not seen: predictions low, median, high, and y."""
    X, y = load_diabetes(return_X_y=True)
    rng = np.random.default_rng(3)
    # Tiny noise breaks the ties of integer targets; the law needs distinct scores.
    y = y + rng.uniform(-0.01, 0.01, size=len(y))
    order = rng.permutation(len(y))
    X, y = X[order], y[order]
    models = [
        QuantileRegressor(quantile=q, alpha=0, solver="highs").fit(X[:100], y[:100])
        for q in (0.1, 0.5, 0.9)
    ]
    return np.stack([model.predict(X[100:]) for model in models], axis=1), y[100:]


def column(j: int) -> object:
    return trustml.wrap(lambda X: X[:, j], task="regression")


def covered_in_resplits(pool: tuple, ask: Callable) -> np.ndarray:
    """Return (RESPLITS, ...): what ``ask`` measures on the test rows of each resplit."""
    X, y = pool
    rng = np.random.default_rng(5)
    found = []
    for _ in range(RESPLITS):
        order = rng.permutation(len(y))
        cal, test = order[:N_CAL], order[N_CAL:]
        found.append(ask(X[cal], y[cal], X[test], y[test]))
    return np.array(found)


def check_band(covered: np.ndarray, n_test: int, alpha: float) -> None:
    low, high = beta_binomial_band(N_CAL, n_test, alpha, level=0.95)
    inside = np.sum((covered >= low - 1e-12) & (covered <= high + 1e-12))
    assert inside >= binom.ppf(FALSE_ALARM, RESPLITS, 0.95)


@pytest.mark.parametrize("score", ["cqr", "cqr-r", "cqr-m"])
def test_quantile_bands_follow_the_beta_binomial_law(pool: tuple, score: str) -> None:
    alphas = [0.05, 0.1, 0.3]
    models = [column(0), column(2), score, column(1) if score == "cqr-m" else None]

    def ask(X_cal, y_cal, X, y):  # type: ignore[no-untyped-def]
        cp = ConformalizedQuantileRegressor(*models).fit(X_cal, y_cal)
        return metrics.coverage(y, cp.predict_interval(X, alphas))

    covered = covered_in_resplits(pool, ask)
    for k, alpha in enumerate(alphas):
        check_band(covered[:, k], len(pool[1]) - N_CAL, alpha)


@pytest.mark.parametrize("score", [ResidualModel(Ridge()), InfinitesimalJackknife()])
def test_difficulties_follow_the_beta_binomial_law(score: object) -> None:
    X, y = load_diabetes(return_X_y=True)
    y = y + np.random.default_rng(3).uniform(-0.01, 0.01, size=len(y))
    model = trustml.wrap(Ridge(alpha=0.1).fit(X[:100], y[:100]), train=(X[:100], y[:100]))
    # The training rows fix the scale: what it says of a row is found once for all resplits.
    rows = np.stack([model.predict(X[100:]), score.scale(model)(X[100:])], axis=1)
    cp = SplitRegressor(column(0), Normalized(lambda X: X[:, 1]))

    def ask(X_cal, y_cal, X, y):  # type: ignore[no-untyped-def]
        return metrics.coverage(y, cp.fit(X_cal, y_cal).predict_interval(X, 0.1))

    covered = covered_in_resplits((rows, y[100:]), ask)
    check_band(covered, len(y) - 100 - N_CAL, 0.1)


@pytest.mark.parametrize("kind", ["cqr-r", "signed"])
def test_each_side_alone_follows_the_law_at_half_of_alpha(pool: tuple, kind: str) -> None:
    if kind == "signed":
        cp = SplitRegressor(column(1), symmetric=False)
    else:
        cp = ConformalizedQuantileRegressor(column(0), column(2), kind, symmetric=False)

    def ask(X_cal, y_cal, X, y):  # type: ignore[no-untyped-def]
        found = cp.fit(X_cal, y_cal).predict_interval(X, 0.2)
        return [np.mean(y >= found[:, 0]), np.mean(y <= found[:, 1])]

    covered = covered_in_resplits(pool, ask)
    for side in (0, 1):
        check_band(covered[:, side], len(pool[1]) - N_CAL, 0.1)


@pytest.mark.parametrize("condition", [None, lambda X: X[:, 0] > 90])
@pytest.mark.parametrize("score", ["absolute", Normalized(lambda X: X[:, 2] - X[:, 0])])
def test_places_in_predictive_distributions_are_uniform(
    pool: tuple, score: object, condition: object
) -> None:
    seeds = np.random.default_rng(0)
    cp = ConformalPredictiveDistribution(column(1), score, condition, seeds)

    def ask(X_cal, y_cal, X, y):  # type: ignore[no-untyped-def]
        # One row a resplit: rows of one resplit share their calibration rows.
        return cp.fit(X_cal, y_cal).pit(X[:1], y[:1])[0], X[0, 0]

    places, group = covered_in_resplits(pool, ask).T
    assert ks_test(places).p_value > FALSE_ALARM
    if condition is not None:
        for rows in (group > 90, group <= 90):
            assert rows.sum() > 50
            assert ks_test(places[rows]).p_value > FALSE_ALARM


def test_every_quantile_holds_its_share_exactly(pool: tuple) -> None:
    levels = [0.05, 0.25, 0.5, 0.9]
    cp = ConformalPredictiveDistribution(column(1))

    def ask(X_cal, y_cal, X, y):  # type: ignore[no-untyped-def]
        return (y[:, None] <= cp.fit(X_cal, y_cal).quantiles(X, levels)).mean(axis=0)

    covered = covered_in_resplits(pool, ask)
    for k, level in enumerate(levels):
        check_band(covered[:, k], len(pool[1]) - N_CAL, 1 - level)
