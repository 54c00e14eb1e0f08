"""The corrected gap: what noise adds is gone, what is there stays."""

import numpy as np
import pytest

from trustml.fairness import corrected_gap, group_metrics


def gaps(rates, n_each, repetitions, seed):
    rng, s = np.random.default_rng(seed), np.repeat(np.arange(len(rates)), n_each)
    found = np.empty((repetitions, 2))
    for r in range(repetitions):
        p = (rng.random(len(s)) < np.asarray(rates)[s]).astype(int)
        g = group_metrics(p, p, sensitive_features=s, metrics=["selection_rate"])
        found[r] = g.difference()[0], corrected_gap(g, random_state=rng)[0]
    return found


def test_noise_is_taken_off_where_groups_do_not_differ():
    found = gaps([0.4] * 8, 50, 150, 0)
    error = found.std(0) / np.sqrt(len(found))
    raw, corrected = found.mean(0)
    assert corrected + 4 * error[1] < 0.6 * (raw - 4 * error[0])
    assert np.median(found[:, 1]) < 0.5 * raw
    assert (found[:, 1] <= found[:, 0]).all()


def test_a_true_gap_is_less_biased_than_the_measured_one():
    found = gaps([0.3, 0.3, 0.45, 0.45, 0.6, 0.6], 60, 150, 1) - 0.3
    error = found.std(0) / np.sqrt(len(found))
    raw, corrected = found.mean(0)
    assert raw > 4 * error[0]  # the measured gap errs upwards
    assert abs(corrected) < 0.5 * raw + 4 * error[1]


def test_a_clear_gap_of_large_groups_stays():
    (raw, corrected), *_ = gaps([0.2, 0.7], 20_000, 1, 2)
    assert corrected == pytest.approx(raw, abs=1e-3)


def test_other_metrics_and_undefined_groups():
    rng = np.random.default_rng(3)
    s, t = np.repeat([0, 1, 2], 60), rng.normal(size=180)
    q = t + rng.normal(size=180) + 5 * (s == 2)
    names = ["mean_error", "mean_absolute_error"]
    g = group_metrics(t, q, sensitive_features=s, metrics=names, random_state=0)
    one = corrected_gap(g, random_state=1)
    assert (one > 4).any()
    assert (one <= g.difference()).all()
    scaled = group_metrics(1e4 * t, 1e4 * q, sensitive_features=s, metrics=names)
    np.testing.assert_allclose(corrected_gap(scaled, random_state=1), 1e4 * one, rtol=1e-6)
    y = (s == 0).astype(int)
    with pytest.warns(match="undefined"):
        g = group_metrics(y, y, sensitive_features=s, metrics=["true_positive_rate"])
    assert np.isnan(corrected_gap(g)[0])
