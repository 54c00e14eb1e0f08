"""Drift: the level of every test without drift, power with it, and effect sizes that stay put."""

from functools import partial

import numpy as np
import pytest
from scipy.stats import binom, kstest
from sklearn.linear_model import LinearRegression, LogisticRegression

import trustml
from trustml.evidence import classifier_test, pvalues
from trustml.ood import drift_test

W = np.array([1.0, -1.0, 0.5, 0.0])
METHODS = {
    "mmd": {"method": "mmd", "max_rows": 100},
    "energy": {"method": "energy", "max_rows": 100},
    "mmd-fourier": {"method": "mmd-fourier"},
    "mmd-linear": {"method": "mmd-linear"},
    "classifier": {"method": partial(classifier_test, classifier=LogisticRegression())},
    "ks": {"method": "ks"},
    "chi2": {"method": "chi2"},
    "score": {"method": "score"},
    "score, chi-squared": {"method": "score", "n_permutations": 0},
}
EXACT = ["mmd", "energy", "mmd-fourier", "score"]


def draw(rng, n, shift=0.0):
    """Rows with one heavy, one skewed and one correlated column, moved in the last."""
    X = np.c_[rng.standard_t(4, n), rng.exponential(size=n), rng.normal(size=(n, 2))]
    X[:, 2] += X[:, 1]
    X[:, 3] += shift
    return X


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    X = draw(rng, 500)
    return trustml.wrap(LinearRegression().fit(X, X @ W + rng.normal(size=500)))


def p_values(model, name, runs, n, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    options = {"n_permutations": 39, "random_state": rng, **METHODS[name]}
    on = None if name.startswith("score") else "inputs"
    return np.array(
        [
            drift_test(model, draw(rng, n), draw(rng, n, shift), on=on, **options).p_value
            for _ in range(runs)
        ]
    )


@pytest.mark.parametrize("name", METHODS)
def test_false_alarms_are_nominal_at_a_thousand_rows(model, name):
    runs = 40
    p = p_values(model, name, runs, 1000)
    for alpha in (0.05, 0.2):
        low, high = binom.ppf([1e-4, 1 - 1e-4], runs, alpha)
        assert low <= np.sum(p <= alpha) <= high, alpha


@pytest.mark.parametrize("name", EXACT)
def test_shuffled_p_values_are_uniform_at_any_size(model, name):
    p = p_values(model, name, 100, 40, seed=1)
    jitter = np.random.default_rng(2).random(100) / 40
    assert kstest(p - jitter, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("name", ["mmd", "mmd-fourier", "ks", "score"])
def test_power_grows_with_the_shift(model, name):
    power = [np.mean(p_values(model, name, 12, 300, s, seed=3) <= 0.1) for s in (0, 0.3, 1.0)]
    assert power[0] <= 0.4
    assert power[1] >= power[0]
    assert power[2] == 1.0


def test_with_many_rows_a_speck_is_significant_and_its_effect_is_small(model):
    # evidently#50: "with 5 % of the data no drift, with all of it everything drifts".
    rng = np.random.default_rng(0)
    X, tiny, large = draw(rng, 20_000), draw(rng, 20_000, 0.05), draw(rng, 20_000, 1.0)
    for method in ("ks", "score"):
        on = None if method == "score" else "inputs"
        found = [
            drift_test(model, X, Y, on=on, method=method, n_permutations=99) for Y in (tiny, large)
        ]
        assert found[0].p_value <= 0.01
        assert found[0].effect_size < 0.1
        assert found[1].effect_size > 5 * found[0].effect_size
    few = drift_test(model, X[:2000], large[:2000], method="score", n_permutations=99)
    assert few.effect_size == pytest.approx(found[1].effect_size, rel=0.15)


def test_alibi_detects_p_value_is_too_small_with_ties_and_ours_is_not():
    # (1 + #{calibration > s}) / n: over n instead of n + 1, and ties counted for an alarm.
    rng, n, runs = np.random.default_rng(0), 19, 4000
    theirs, ours = [], []
    for _ in range(runs):
        scores = rng.integers(0, 5, n + 1).astype(float)
        theirs.append((1 + np.sum(scores[:n] > scores[n])) / n)
        ours.append(float(pvalues(scores[:n], scores[n:])[0]))
    assert np.mean(np.array(theirs) <= 0.1) > 0.15
    assert np.sum(np.array(ours) <= 0.1) <= binom.ppf(1 - 1e-4, runs, 0.1)
    assert (1 + np.sum(np.ones(n) > 0)) / n > 1, "it is no probability either"
