"""Regions of several outputs cover as split conformal prediction does, whatever their shape."""

import numpy as np
import pytest
from scipy.stats import betabinom, binom
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

import trustml
from trustml.conformal import Ellipsoid, MultivariateRegressor
from trustml.evidence import beta_binomial_band, ks_test

RESPLITS, N_CAL, SHARE, FALSE_ALARM = 240, 200, 0.25, 1e-5


@pytest.fixture(scope="module")
def pool() -> tuple[np.ndarray, np.ndarray]:
    """Predictions of four outputs of rows that the model has not seen, and the truths."""
    X, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(3).permutation(len(y))
    inputs, outputs = X[order][:, :6], np.column_stack([y[order], X[order][:, 6:9]])
    # Tiny noise breaks ties of rounded measurements; the law needs distinct sizes.
    outputs = outputs * (1 + 1e-6 * np.random.default_rng(4).normal(size=outputs.shape))
    fitted = LinearRegression().fit(inputs[:120], outputs[:120])
    return fitted.predict(inputs[120:]), outputs[120:]


@pytest.mark.parametrize(
    "shape",
    ["ellipsoid", "copula", "box", Ellipsoid(neighbors=15)],
    ids=["ellipsoid", "copula", "box", "local"],
)
def test_coverage_follows_the_beta_binomial_law(pool: tuple, shape: object) -> None:
    P, Y = pool
    n, n_test, alphas = round(N_CAL * (1 - SHARE)), len(P) - N_CAL, [0.1, 0.3]
    rng, model = np.random.default_rng(5), trustml.precomputed("values")
    covered, first = [], []
    for _ in range(RESPLITS):
        order = rng.permutation(len(P))
        cal, test = order[:N_CAL], order[N_CAL:]
        cp = MultivariateRegressor(model, shape, share=SHARE, random_state=0).fit(P[cal], Y[cal])
        p_values = cp.p_values(P[test], Y[test])
        covered.append([(p_values > alpha).mean() for alpha in alphas])
        first.append(p_values[0])
        assert cp.n_calibration_ == n
    for alpha, shares in zip(alphas, np.transpose(covered), strict=True):
        low, high = beta_binomial_band(n, n_test, alpha, level=0.95)
        inside = np.sum((shares >= low - 1e-12) & (shares <= high + 1e-12))
        assert inside >= binom.ppf(FALSE_ALARM, RESPLITS, 0.95)
        misses = int(np.floor((n + 1) * alpha + 1e-9))
        law, counts = betabinom(n_test, n + 1 - misses, misses), np.rint(shares * n_test)
        jitter = np.random.default_rng(0).random(RESPLITS)
        assert ks_test(law.cdf(counts - 1) + jitter * law.pmf(counts)).p_value > FALSE_ALARM
    # One row a resplit: uniform on 1/(n + 1), ..., 1.
    assert ks_test(first, alternative="greater").p_value > FALSE_ALARM
    assert ks_test(np.array(first) - 0.5 / (n + 1)).p_value > FALSE_ALARM
