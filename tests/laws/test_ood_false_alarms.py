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


@pytest.fixture(scope="module")
def scored(suite, digits):
    """Scores of rows that neither model nor detector has seen, and of foreign ones."""
    inside, outside = (
        suite.score(rows) for rows in (digits[0][800:], np.random.default_rng(2).random((40, 64)))
    )
    return {name: (inside[name], outside[name]) for name in inside.columns}


def resplits(n, splits=SPLITS):
    """Random calibration and test parts of n rows."""
    rng = np.random.default_rng(1)
    for _ in range(splits):
        order = rng.permutation(n)
        yield order[:N_CAL], order[N_CAL : N_CAL + N_TEST]


def test_the_verdicts_of_a_suite_are_those_of_its_scores(suite, scored, digits):
    cal, test = next(resplits(997))
    pool = digits[0][800:]
    alarms = suite.calibrate(pool[cal]).alarm(pool[test[:60]], 0.1)
    for name, (inside, _) in scored.items():
        expected = ood.Calibration(inside[cal]).alarm(inside[test[:60]], 0.1)
        assert np.mean(alarms[name] != expected) <= 0.02, name  # rounding of another batch


def test_false_alarms_are_bounded_and_in_the_beta_binomial_band(scored):
    # Over the draw of both halves the number of alarms is Beta-Binomial for scores without
    # ties; every detector's mean rate must lie within its standard error of the law's.
    for name, (inside, _) in scored.items():
        assert len(np.unique(inside)) > 0.99 * len(inside), f"{name} ties"
        for alpha in (0.05, 0.1, 0.3):
            found = [
                ood.Calibration(inside[cal]).alarm(inside[test], alpha).mean()
                for cal, test in resplits(len(inside))
            ]
            rank = round(alpha * (N_CAL + 1))
            law = betabinom(N_TEST, rank, N_CAL + 1 - rank)
            mean, error = law.mean() / N_TEST, law.std() / N_TEST / np.sqrt(SPLITS)
            assert mean - 4 * error <= np.mean(found) <= mean + 4 * error, (name, alpha)
            low, high = law.ppf(0.001) / N_TEST, law.ppf(0.999) / N_TEST
            assert np.mean([low <= rate <= high for rate in found]) >= 0.95, (name, alpha)


def test_p_values_are_super_uniform_with_ties_too(scored):
    for name, (inside, _) in scored.items():
        for scores in (inside, np.round(inside, 1 - int(np.log10(np.std(inside))))):
            p = np.concatenate(
                [
                    ood.Calibration(scores[cal]).p_values(scores[test[:5]])
                    for cal, test in resplits(len(scores))
                ]
            )
            for t in (0.05, 0.1, 0.25, 0.5, 0.75):
                assert np.mean(p <= t) <= t + 4 * np.sqrt(t * (1 - t) / len(p)), (name, t)
    # Coarse scores tie: the p-values must stay on the safe side.
    features = trustml.precomputed("features")
    rng, tied = np.random.default_rng(0), []
    det = ood.Knn(features, k=1, normalize=False).fit(np.zeros((1, 1)))
    for _ in range(300):
        det.calibrate(rng.integers(0, 5, (19, 1)).astype(float))
        tied.extend(det.p_values(rng.integers(0, 5, (1, 1)).astype(float)))
    assert np.mean(np.array(tied) <= 0.1) <= 0.1 + 3 * np.sqrt(0.09 / 300)


def test_false_discoveries_are_bounded(scored):
    q, found = 0.2, []
    for name, (inside, outside) in scored.items():
        shares = []
        for cal, test in resplits(len(inside)):
            batch = np.concatenate([inside[test[:160]], outside])
            hits = ood.Calibration(inside[cal]).discoveries(batch, q)
            shares.append(hits[:160].sum() / max(hits.sum(), 1))
            if name == "Fused":
                found.append(hits[160:].mean())
        assert np.mean(shares) <= q + 3 * np.std(shares) / np.sqrt(SPLITS), name
    assert np.mean(found) > 0.3, "the guarantee is not bought by silence"


def test_false_alarms_are_bounded_within_every_class(scored, digits):
    # One class has higher scores than the others: without labels its rows would alarm too often.
    labels, (inside, _) = digits[1][800:] // 2, scored["Fused"]  # some 40 of each to calibrate
    scores = inside + 2.0 * inside.std() * (labels == 1)
    alpha = 0.1
    plain, within = [], {k: [] for k in range(5)}
    for cal, test in resplits(len(scores), 200):
        own = labels[test]
        plain.append(ood.Calibration(scores[cal]).alarm(scores[test], alpha)[own == 1].mean())
        alarms = ood.Calibration(scores[cal], labels[cal]).alarm(scores[test], alpha)
        for k in range(5):
            within[k].append(alarms[own == k].mean())
    assert np.mean(plain) > 2 * alpha
    for k, rates in within.items():
        assert np.mean(rates) <= alpha + 4 * np.std(rates) / np.sqrt(200), k


def test_weights_bound_false_alarms_where_covariates_move():
    # Rows are drawn with density e^(x - 1/2) beside calibration's; scores grow with x.
    rng, alpha = np.random.default_rng(0), 0.1
    ratio = lambda x: np.exp(x)  # noqa: E731 - on any scale
    plain, weighted, discoveries = [], [], []
    for _ in range(400):
        cal, new = rng.normal(size=199), rng.normal(1, 1, size=50)
        plain.append(ood.Calibration(cal).alarm(new, alpha).mean())
        calibration = ood.Calibration(cal, weights=ratio(cal), ratio=ratio)
        weights = calibration.weigh(new, 50)
        weighted.append(calibration.alarm(new, alpha, weights).mean())
        discoveries.append(calibration.discoveries(new, 0.2, weights).any())
    assert np.mean(plain) > 2 * alpha
    assert np.mean(weighted) <= alpha + 4 * np.std(weighted) / np.sqrt(400)
    assert np.mean(discoveries) <= 0.2 + 4 * np.sqrt(0.16 / 400), "all are true nulls"


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
