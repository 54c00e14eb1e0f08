"""Monitors: one false alarm in 1 / alpha streams, at any time; changes are found."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom
from sklearn.exceptions import NotFittedError

import trustml
from trustml import ood
from trustml.evidence import betting_martingale, mean_martingale, online_pvalues

WATCHES = ["scores", "alarms"]


def calibrated(scores):
    """Return a detector of rows whose scores are the rows themselves."""
    detector = ood.Knn(trustml.precomputed("features"), k=1, normalize=False)
    return detector.fit(np.zeros((1, 1))).calibrate(np.asarray(scores)[:, None])


def rows(values):
    return np.asarray(values, dtype=np.float64)[:, None]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("watch", WATCHES)
def test_false_alarms_are_rare_however_long_one_watches(watch, ties):
    rng, alarms, runs = np.random.default_rng(0), 0, 150
    for i in range(runs):
        values = np.abs(rng.normal(size=500))
        values = np.ceil(2 * values) if ties else values
        monitor = ood.Monitor(calibrated(values[:100]), watch, alpha=0.1, random_state=i)
        alarms += monitor.update(rows(values[100:])).alarm_ is not None
    assert alarms <= binom.ppf(1 - 1e-4, runs, 0.1)


@pytest.mark.parametrize("watch", WATCHES)
def test_a_change_is_found_soon_and_never_forgotten(watch):
    rng = np.random.default_rng(0)
    calm, moved = np.abs(rng.normal(size=600)), 3 * np.abs(rng.normal(size=200))
    monitor = ood.Monitor(calibrated(calm[:300]), watch, random_state=0)
    assert monitor.update(rows(calm[300:])).alarm_ is None
    assert monitor.log_wealth_ < math.log(100)
    monitor.update(rows(moved))
    assert 300 <= monitor.alarm_ < 400
    first = monitor.alarm_
    assert monitor.update(rows(calm)).alarm_ == first
    path = monitor.trace()
    assert path.alarm == first
    assert len(path.score) == 1100
    assert path.log_wealth[-1] == monitor.log_wealth_


@pytest.mark.parametrize("watch", WATCHES)
def test_batches_do_not_matter(watch):
    values = np.abs(np.random.default_rng(0).normal(size=60))
    whole = ood.Monitor(calibrated(values[:30]), watch, random_state=3)
    parts = ood.Monitor(calibrated(values[:30]), watch, random_state=3)
    whole.update(rows(values[30:]))
    for value in values[30:]:
        parts.update(torch.tensor([[value]]))
    np.testing.assert_allclose(parts.trace().log_wealth, whole.trace().log_wealth, rtol=1e-12)
    np.testing.assert_array_equal(parts.trace().p_value, whole.trace().p_value)


def test_it_is_the_martingale_of_the_evidence():
    values = np.abs(np.random.default_rng(0).normal(size=80))
    scores = ood.Monitor(calibrated(values[:30]), bet="jumper", random_state=5)
    found = scores.update(rows(values[30:])).trace()
    p = online_pvalues(found.score, 5, cal_scores=values[:30])
    np.testing.assert_allclose(found.p_value, p)
    np.testing.assert_allclose(found.log_wealth, betting_martingale(p, "jumper", log=True))
    detector = calibrated(values[:30])
    alarms = ood.Monitor(detector, "alarms", level=0.2, limit=0.3)
    found = alarms.update(rows(values[30:])).trace()
    losses = detector.alarm(rows(values[30:]), 0.2)
    np.testing.assert_allclose(found.log_wealth, mean_martingale(losses, 0.3, log=True))
    np.testing.assert_array_equal(found.p_value, detector.p_values(rows(values[30:])))


def test_only_more_alarms_than_the_limit_disturb_the_watch_of_alarms():
    rng = np.random.default_rng(0)
    calm, lower = np.abs(rng.normal(size=300)), 0.2 * np.abs(rng.normal(size=1000))
    detector = calibrated(calm)
    assert ood.Monitor(detector, random_state=0).update(rows(lower)).alarm_ is not None
    assert ood.Monitor(detector, "alarms").update(rows(lower)).alarm_ is None
    more = np.where(rng.random(2000) < 0.15, 9.0, 0.1)
    assert ood.Monitor(detector, "alarms").update(rows(more)).alarm_ is not None
    assert ood.Monitor(detector, "alarms", limit=0.2).update(rows(more)).alarm_ is None


def test_the_default_limit_counts_the_luck_of_the_calibration_rows():
    monitor = ood.Monitor(calibrated(np.arange(199.0)), "alarms", alpha=0.02).reset()
    # The rate of alarms at level 0.05 after 199 rows is Beta(10, 190).
    assert monitor.limit_ == pytest.approx(beta.ppf(0.99, 10, 190))
    assert monitor.stream_.alpha == 0.01


def test_reset_forgets_and_takes_the_new_calibration():
    values = np.abs(np.random.default_rng(0).normal(size=100))
    monitor = ood.Monitor(calibrated(values), random_state=0).update(rows(values + 5))
    assert monitor.alarm_ is not None
    monitor.detector.calibrate(rows(values + 5))
    monitor.reset()
    assert (monitor.alarm_, monitor.log_wealth_, len(monitor.trace().score)) == (None, 0.0, 0)
    assert monitor.update(rows(values + 5)).alarm_ is None


def test_images_that_fade_are_found(digits):
    detector = ood.Fused(digits.model).fit(digits.X_train, digits.y_train)
    detector.calibrate(digits.X_test[:300])
    monitor = ood.Monitor(detector, random_state=0)
    assert monitor.update(digits.X_test[300:500]).alarm_ is None
    assert monitor.update(digits.foreign[:200]).alarm_ < 260


def test_bad_input_is_refused(digits):
    detector = calibrated(np.arange(5.0))
    with pytest.raises(TypeError, match="of a Suite take one"):
        ood.Monitor(ood.Suite(digits.model)).update(digits.X_test)
    with pytest.raises(NotFittedError, match="not calibrated; call fit"):
        ood.Monitor(ood.Msp(digits.model)).update(digits.X_test)
    with pytest.raises(NotFittedError, match="has seen nothing"):
        ood.Monitor(detector).trace()
    with pytest.raises(ValueError, match="watch must be one of 'scores', 'alarms'"):
        ood.Monitor(detector, watch="rows").update(rows([1.0]))
    with pytest.raises(ValueError, match=r"5 calibration rows never give an alarm .* at least 19"):
        ood.Monitor(detector, watch="alarms").update(rows([1.0]))
    weighted = calibrated(np.arange(5.0)).calibrate(rows(np.arange(9.0)), weights=np.ravel)
    with pytest.raises(ValueError, match="calibrate the detector without weights"):
        ood.Monitor(weighted).update(rows([1.0]))
    with pytest.raises(ValueError, match="alpha must be in"):
        ood.Monitor(detector, alpha=2).update(rows([1.0]))


def test_the_path_names_the_step_that_the_monitor_does():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 2))
    det = ood.Mahalanobis(trustml.precomputed("features")).fit(rows[:300]).calibrate(rows[300:])
    for watch in ("scores", "alarms"):
        monitor = ood.Monitor(det, watch=watch, random_state=0)
        path = monitor.update(5 * rng.normal(size=(200, 2))).trace()
        assert path.alarm == monitor.alarm_
        assert f"alarm at step {monitor.alarm_} " in repr(path)
        limit = -np.log(path.alpha)
        assert path.log_wealth[monitor.alarm_] >= limit > path.log_wealth[: monitor.alarm_].max()
