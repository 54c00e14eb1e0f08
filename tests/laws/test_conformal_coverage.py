"""The promises of split conformal prediction, on real data, against their exact laws.

A resplit of one pool of held-out rows is a random permutation of it, so the number of covered
test rows is Beta-Binomial exactly, whatever the pool and the model. Every bound below is placed
so that a correct predictor breaks it less often than once in ten thousand runs.
"""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import betabinom, binom
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge

import trustml
from trustml.conformal import SplitClassifier, SplitRegressor, metrics
from trustml.evidence import beta_binomial_band, ks_test

RESPLITS, N_CAL, FALSE_ALARM = 200, 250, 1e-4


@pytest.fixture(scope="module")
def pool() -> tuple:
    """A logistic regression's probabilities on digits that it has not seen, and their labels."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(y))
    X, y = X[order] / 16, y[order]
    # Noise makes the task hard enough that the sets have something to say.
    X = X + np.random.default_rng(2).normal(scale=0.3, size=X.shape)
    model = trustml.wrap(LogisticRegression(C=0.05).fit(X[:700], y[:700]))
    return model.predict_proba(X[700:1150]), y[700:1150]


def resplits(n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    for _ in range(RESPLITS):
        order = rng.permutation(n)
        yield order[:N_CAL], order[N_CAL:]


def check_against_the_law(covered: np.ndarray, n_test: int, alpha: float) -> None:
    low, high = beta_binomial_band(N_CAL, n_test, alpha, level=0.95)
    inside = np.sum((covered >= low - 1e-12) & (covered <= high + 1e-12))
    assert inside >= binom.ppf(FALSE_ALARM, RESPLITS, 0.95)
    # Not only inside the band: spread as the law says. A discrete law makes the test conservative.
    misses = int(np.floor((N_CAL + 1) * alpha + 1e-9))
    law = betabinom(n_test, N_CAL + 1 - misses, misses)
    counts = np.rint(covered * n_test)
    jitter = np.random.default_rng(0).random(RESPLITS)
    uniform = law.cdf(counts - 1) + jitter * law.pmf(counts)
    assert ks_test(uniform).p_value > FALSE_ALARM


@pytest.mark.parametrize("score", ["lac", "aps", "raps", "saps", "topk", "margin"])
def test_coverage_follows_the_beta_binomial_law(pool: tuple, score: str) -> None:
    p, y = pool
    alphas = [0.05, 0.1, 0.3]
    model = trustml.precomputed("probabilities")
    covered = []
    for cal, test in resplits(len(y)):
        cp = SplitClassifier(model, score, random_state=0).fit(p[cal], y[cal])
        covered.append(metrics.coverage(y[test], cp.predict_set(p[test], alphas)))
    for k, alpha in enumerate(alphas):
        check_against_the_law(np.array(covered)[:, k], len(y) - N_CAL, alpha)


def test_class_condition_covers_every_class(pool: tuple) -> None:
    p, y = pool
    model, alpha = trustml.precomputed("probabilities"), 0.2
    hits, rows = np.zeros(10), np.zeros(10)
    for cal, test in resplits(len(y)):
        cp = SplitClassifier(model, condition="class").fit(p[cal], y[cal])
        sets = cp.predict_set(p[test], alpha)
        hits += np.bincount(y[test], weights=sets[np.arange(len(test)), y[test]], minlength=10)
        rows += np.bincount(y[test], minlength=10)
    # A resplit has about 25 calibration and 20 test rows of a class: standard deviation below
    # 0.12, so 4.5 standard errors of the mean of 200 are 0.038.
    assert (hits / rows >= 1 - alpha - 0.038).all()
    assert (hits / rows <= 1 - alpha + 0.038 + 1 / 20).all()


def test_p_values_of_the_truth_are_super_uniform(pool: tuple) -> None:
    p, y = pool
    model = trustml.precomputed("probabilities")
    first = []
    for cal, test in resplits(len(y)):
        cp = SplitClassifier(model, "aps", random_state=0).fit(p[cal], y[cal])
        # One row a resplit: rows of one resplit share their calibration set.
        first.append(cp.p_values(p[test[:1]])[0, y[test[0]]])
    assert ks_test(first, alternative="greater").p_value > FALSE_ALARM
    assert ks_test(np.array(first) - 0.5 / (N_CAL + 1)).p_value > FALSE_ALARM


@pytest.mark.parametrize("score", ["absolute", "normalized"])
def test_interval_coverage_follows_the_law(score: str) -> None:
    X, y = load_diabetes(return_X_y=True)
    rng = np.random.default_rng(3)
    # Tiny noise breaks the ties of integer targets; the law needs distinct scores.
    y = y + rng.uniform(-0.01, 0.01, size=len(y))
    order = rng.permutation(len(y))
    X, y = X[order], y[order]
    model = trustml.wrap(Ridge(alpha=0.1).fit(X[:100], y[:100]), train=(X[:100], y[:100]))
    X, y, n_cal, alpha = X[100:], y[100:], 120, 0.1
    covered = []
    for _ in range(RESPLITS):
        order = rng.permutation(len(y))
        cal, test = order[:n_cal], order[n_cal:]
        cp = SplitRegressor(model, score).fit(X[cal], y[cal])
        covered.append(metrics.coverage(y[test], cp.predict_interval(X[test], alpha)))
    low, high = beta_binomial_band(n_cal, len(y) - n_cal, alpha, level=0.95)
    inside = np.sum((np.array(covered) >= low) & (np.array(covered) <= high))
    assert inside >= binom.ppf(FALSE_ALARM, RESPLITS, 0.95)
