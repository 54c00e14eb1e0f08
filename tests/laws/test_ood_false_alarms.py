"""The guarantees of calibrated detectors: false alarms, false discoveries, p-values."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import betabinom
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import trustml
from trustml import ood
from trustml.evidence import ks_test

N_CAL, N_TEST, SPLITS = 199, 250, 40


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))  # the rows come ordered by writer
    return X[order] / 16, y[order]


@pytest.fixture(scope="module")
def suite(digits):
    X, y = digits
    net = MLPClassifier((16,), max_iter=60, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the guarantee asks no good model
        net.fit(X[:800], y[:800])
    return ood.Suite(trustml.wrap(net)).fit(X[:800], y[:800])


def resplits(pool):
    """Random calibration and test halves of rows that neither model nor detector has seen."""
    rng = np.random.default_rng(1)
    for _ in range(SPLITS):
        order = rng.permutation(len(pool))
        yield pool[order[:N_CAL]], pool[order[N_CAL : N_CAL + N_TEST]]


def test_false_alarms_are_bounded_and_in_the_beta_binomial_band(suite, digits):
    # Over the draw of both halves the number of alarms is Beta-Binomial for scores without
    # ties; every detector's mean rate must lie within its standard error of the law's.
    alphas = (0.05, 0.1, 0.3)
    rates = {(name, alpha): [] for name in suite.detectors_ for alpha in alphas}
    for cal, test in resplits(digits[0][800:]):
        suite.calibrate(cal)
        for alpha in alphas:
            alarms = suite.alarm(test, alpha)
            for name in alarms.columns:
                rates[name, alpha].append(alarms[name].mean())
    for (name, alpha), found in rates.items():
        rank = round(alpha * (N_CAL + 1))
        law = betabinom(N_TEST, rank, N_CAL + 1 - rank)
        mean, error = law.mean() / N_TEST, law.std() / N_TEST / np.sqrt(SPLITS)
        assert mean - 4 * error <= np.mean(found) <= mean + 4 * error, (name, alpha)
        low, high = law.ppf(0.001) / N_TEST, law.ppf(0.999) / N_TEST
        assert np.mean([low <= rate <= high for rate in found]) >= 0.95, (name, alpha)


def test_p_values_are_super_uniform_with_ties_too(suite, digits):
    p = {name: [] for name in suite.detectors_}
    for cal, test in resplits(digits[0][800:]):
        values = suite.calibrate(cal).p_values(test[:5])
        for name in p:
            p[name].extend(values[name])
    for name, values in p.items():
        for t in (0.05, 0.1, 0.25, 0.5, 0.75):
            share, n = np.mean(np.array(values) <= t), len(values)
            assert share <= t + 4 * np.sqrt(t * (1 - t) / n), (name, t)
    # Coarse scores tie: the p-values must stay on the safe side.
    features = trustml.precomputed("features")
    rng, tied = np.random.default_rng(0), []
    det = ood.Knn(features, k=1, normalize=False).fit(np.zeros((1, 1)))
    for _ in range(300):
        det.calibrate(rng.integers(0, 5, (19, 1)).astype(float))
        tied.extend(det.p_values(rng.integers(0, 5, (1, 1)).astype(float)))
    assert np.mean(np.array(tied) <= 0.1) <= 0.1 + 3 * np.sqrt(0.09 / 300)


def test_false_discoveries_are_bounded(suite, digits):
    X = digits[0]
    foreign = np.random.default_rng(2).random((40, 64))
    pool, q, shares, found = X[800:], 0.2, {}, {}
    for cal, test in resplits(pool):
        batch = np.concatenate([test[:160], foreign])
        table = suite.calibrate(cal).discoveries(batch, q)
        for name in table.columns:
            hits = table[name]
            shares.setdefault(name, []).append(hits[:160].sum() / max(hits.sum(), 1))
            found.setdefault(name, []).append(hits[160:].mean())
    for name, share in shares.items():
        assert np.mean(share) <= q + 3 * np.std(share) / np.sqrt(SPLITS), name
    assert np.mean(found["Fused"]) > 0.3, "the guarantee is not bought by silence"


def test_drift_on_held_out_rows_is_no_drift(suite, digits):
    X = digits[0][800:]
    rng = np.random.default_rng(3)
    p = []
    for seed in range(60):
        order = rng.permutation(len(X))
        p.append(
            ood.drift_test(
                suite.model, X[order[:60]], X[order[60:120]], n_permutations=39, random_state=seed
            ).p_value
        )
    assert np.mean(np.array(p) <= 0.1) <= 0.1 + 3 * np.sqrt(0.09 / 60)
    # The other way round: the p-values are not all large either.
    assert (
        ks_test(
            np.array(p) - torch.rand(60, generator=torch.Generator().manual_seed(0)).numpy() / 40
        ).p_value
        > 0.001
    )
