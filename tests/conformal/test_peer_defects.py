"""Defects of other libraries (B1 to B15) that our code does not share, each at its symptom.

Measured on MAPIE 1.6.0, TorchCP 1.2.1, puncc 0.9.3 and crepes 0.9.1; MAPIE 1.5.0, fortuna and
torch-uncertainty were read. What is not here has its test where its method is tested: B2 beside
MAPIE in tests/peers/test_mapie_risk_control.py, B3 in tests/laws/test_conformal_shift.py, the ranks
of B6, B8 and B9 in tests/evidence/test_quantile.py, B10 and B14 in test_split_classifier.py, B13
for EnbPI in test_enbpi.py, B15 in test_clustered.py.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.linear_model import Ridge

import trustml
from trustml.conformal import (
    CvPlusRegressor,
    JackknifePlusRegressor,
    SplitClassifier,
    SplitRegressor,
    metrics,
    quantile,
)
from trustml.evidence import beta_binomial_band, mean_upper_bound


def rows(n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.4), size=n)
    return p, (rng.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)


@pytest.mark.parametrize("score", ["aps", "raps"])
def test_puncc_b1_the_size_of_a_set_is_not_clipped_to_the_batch(score: str) -> None:
    # puncc's sets have at most as many labels as the batch has rows: one row at a time it covers
    # 0.554 of the rows at target 0.90.
    (p_cal, y_cal), (p, y) = rows(400, 10, 0), rows(400, 10, 1)
    cp = SplitClassifier(trustml.precomputed("probabilities"), score, random_state=0)
    cp.fit(p_cal, y_cal)
    alone = np.concatenate([cp.predict_set(p[i : i + 1], 0.1) for i in range(400)])
    np.testing.assert_array_equal(alone, cp.predict_set(p, 0.1))
    assert alone.sum(axis=1).max() > 2
    low, high = beta_binomial_band(400, 400, 0.1, level=0.9999)
    assert low <= metrics.coverage(y, alone) <= high


def test_mapie_b2_the_betting_bound_is_one_martingale_of_all_rows() -> None:
    # MAPIE adds the maxima of the two halves and drops the middle row: at the worst case its
    # bound is below the mean in 0.17 to 0.22 of the runs at delta = 0.10.
    runs, delta = 500, 0.1
    for p, n in ((0.1002, 200), (0.3002, 201)):
        losses = (np.random.default_rng(0).random((n, runs)) < p).astype(float)
        misses = np.sum(mean_upper_bound(losses, delta, "wsr") < p)
        assert misses <= binom.ppf(1 - 1e-4, runs, delta)


def test_torchcp_b4_the_worst_slab_is_of_the_rows_not_of_the_labels() -> None:
    # TorchCP passes the coverage where the labels belong: it reports 1.000 for a predictor that
    # covers no row of a slab.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 3))
    hit = X[:, 0] < 1
    for y in (np.zeros(2000, dtype=int), rng.integers(4, size=2000)):
        sets = (np.arange(4) == y[:, None]) == hit[:, None]
        found = metrics.worst_slab_coverage(X, y, sets, delta=0.1, random_state=0)
        assert found.high < 0.2


def test_torchcp_b5_importing_the_room_imports_no_optional_package() -> None:
    # No part of TorchCP imports without torchsort, torch_geometric and transformers.
    code = (
        "import sys, json, trustml.conformal as c; [getattr(c, name) for name in c.__all__];"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(json.loads(done.stdout)) & {
        "cvxpy", "crepes", "deel", "lightgbm", "mapie", "matplotlib", "torch_geometric", "torchcp",
        "torchsort", "torchvision", "transformers", "venn_abers", "xgboost",
    }  # fmt: skip


def test_mapie_b7_the_bernstein_bound_takes_each_columns_own_variance() -> None:
    # MAPIE 1.5.0 takes the variance of the risks over the grid, which is 0 for one parameter.
    rng = np.random.default_rng(1)
    noisy, quiet = rng.integers(2, size=100) * 1.0, np.full(100, 0.5)
    quiet[:50] = 0.5 + (noisy.mean() - 0.5) * 2  # the same mean
    both = np.stack([noisy, quiet], axis=1)
    bounds = mean_upper_bound(both, 0.1, "empirical-bernstein")
    for j in range(2):
        alone = mean_upper_bound(both[:, [j]], 0.1, "empirical-bernstein")
        np.testing.assert_array_equal(alone, bounds[[j]])
    assert both[:, 0].mean() == pytest.approx(both[:, 1].mean())
    assert bounds[0] > bounds[1] + 0.03


def test_puncc_b11_as_many_folds_as_rows_are_jackknife_plus() -> None:
    # puncc's CVPlus(K=n) ends in "object of type 'numpy.float64' has no len()".
    rng = np.random.default_rng(2)
    X, new = rng.normal(size=(30, 2)), rng.normal(size=(10, 2))
    y = X.sum(axis=1) + rng.normal(size=30)
    model = trustml.wrap(Ridge(alpha=0.5).fit(X, y), train=(X, y))
    for alpha in (0.1, [0.3, 0.1]):
        np.testing.assert_allclose(
            CvPlusRegressor(model, folds=30, random_state=0).fit().predict_interval(new, alpha),
            JackknifePlusRegressor(model).fit().predict_interval(new, alpha),
            rtol=1e-9,
        )


@pytest.mark.parametrize("score", ["lac", "aps", "raps"])
def test_torch_uncertainty_b12_the_threshold_is_a_score_with_the_corrected_rank(score: str) -> None:
    # torch-uncertainty interpolates the 1 - alpha quantile, without the (n + 1).
    p, y = rows(59, 5, 3)
    cp = SplitClassifier(trustml.precomputed("probabilities"), score, random_state=0).fit(p, y)
    scores = cp.calibration_.by_group[0]
    for alpha, rank in ((0.05, 57), (0.1, 54), (0.3, 42)):
        threshold = quantile(scores, alpha)
        assert threshold == np.sort(scores)[rank - 1]
        assert threshold > np.quantile(scores, 1 - alpha)


def test_fortuna_b13_jackknife_plus_ends_are_order_statistics_of_n_plus_one() -> None:
    # fortuna takes interpolated quantiles of the leave-one-out ends, without the (n + 1).
    rng = np.random.default_rng(4)
    X, new = rng.normal(size=(19, 2)), rng.normal(size=(6, 2))
    y = X.sum(axis=1) + rng.normal(size=19)
    left_out = [Ridge(alpha=0.5).fit(np.delete(X, i, 0), np.delete(y, i)) for i in range(19)]
    residuals = np.array([abs(y[i] - m.predict(X[i : i + 1])[0]) for i, m in enumerate(left_out)])
    centres = np.stack([m.predict(new) for m in left_out], axis=1)
    model = trustml.wrap(Ridge(alpha=0.5).fit(X, y), train=(X, y))
    found = JackknifePlusRegressor(model).fit().predict_interval(new, 0.1)
    # Of 20 places: floor(0.1 * 20) = 2 from below, ceil(0.9 * 20) = 18.
    np.testing.assert_allclose(found[:, 0], np.sort(centres - residuals)[:, 1], rtol=1e-9)
    np.testing.assert_allclose(found[:, 1], np.sort(centres + residuals)[:, 17], rtol=1e-9)


def test_crepes_b9_ninety_nine_rows_give_the_ninetieth_and_nine_the_largest() -> None:
    # crepes gives the 91st of 99 residuals, and with 9 the whole line; the rank itself is tested
    # in tests/evidence/test_quantile.py, this is the interval that the user sees.
    rng = np.random.default_rng(5)
    for n, rank in ((99, 90), (9, 9)):
        y = rng.permutation(np.arange(1.0, n + 1))
        zero = SplitRegressor(trustml.precomputed("values")).fit(np.zeros(n), y)
        found = zero.predict_interval(np.zeros(1), 0.1)
        assert found.tolist() == [[-rank, rank]]
