"""Calibration within groups, and balance for each class."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.fairness import group_metrics

NAMES = [
    "calibration_error",
    "debiased_calibration_error",
    "balance_positive_class",
    "balance_negative_class",
    "log_loss",
]


def sample(n=400, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    score = rng.random(n)
    y = (rng.random(n) < np.clip(score + shift, 0, 1)).astype(int)
    return y, score, rng.integers(0, 2, n)


def naive(y, score, n_bins=10):
    """Expected calibration error and its debiased square, of distinct scores."""
    parts = np.array_split(np.argsort(score), n_bins)
    gaps = [score[part].mean() - y[part].mean() for part in parts]
    noise = [y[part].mean() * (1 - y[part].mean()) / (len(part) - 1) for part in parts]
    share = [len(part) / len(y) for part in parts]
    squares = sum(w * (g**2 - v) for w, g, v in zip(share, gaps, noise, strict=True))
    return sum(w * abs(g) for w, g in zip(share, gaps, strict=True)), max(squares, 0) ** 0.5


def test_errors_are_those_of_bins_of_equal_mass_within_each_group():
    y, score, _ = sample(shift=0.2)
    s = np.arange(400) % 2
    g = group_metrics(y, score > 0.5, sensitive_features=s, y_score=score, metrics=NAMES)
    for code in (0, 1):
        of = s == code
        plain, debiased = naive(y[of], score[of])
        assert g.by_group["calibration_error"][code] == pytest.approx(plain)
        assert g.by_group["debiased_calibration_error"][code] == pytest.approx(debiased)
        assert g.by_group["balance_positive_class"][code] == score[of & (y == 1)].mean()
        assert g.by_group["balance_negative_class"][code] == score[of & (y == 0)].mean()
        loss = sklearn.metrics.log_loss(y[of], score[of])
        assert g.by_group["log_loss"][code] == pytest.approx(loss)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 5, 50]))
def test_order_of_rows_and_ties_do_not_matter(seed, levels):
    y, score, s = sample(n=120, seed=seed)
    score = np.round(score * levels) / levels
    order = np.random.default_rng(seed).permutation(120)
    kwargs = {"metrics": NAMES[:4]}
    g = group_metrics(y, y, sensitive_features=s, y_score=score, **kwargs)
    again = group_metrics(
        y[order], y[order], sensitive_features=s[order], y_score=score[order], **kwargs
    )
    np.testing.assert_allclose(g.by_group, again.by_group, atol=1e-12)
    assert (np.asarray(g.by_group) >= 0).all()
    assert (np.asarray(g.by_group) <= 1).all()


def test_noise_counts_against_small_groups_unless_it_is_taken_off():
    plain, debiased = [], []
    for seed in range(60):
        y, score, _ = sample(n=2100, seed=seed)
        s = np.arange(2100) < 100
        g = group_metrics(y, y, sensitive_features=s, y_score=score, metrics=NAMES[:2])
        signed = g.signed_difference()
        plain.append(signed["calibration_error"][True])
        debiased.append(signed["debiased_calibration_error"][True])
    # Both groups are calibrated: the plain error of the small one is larger in nearly all draws.
    assert np.mean(np.array(plain) > 0) > 0.95
    assert np.mean(debiased) < np.mean(plain) / 2


def test_a_shift_of_the_scores_of_one_group_is_its_calibration_gap():
    y, score, s = sample(n=20_000, seed=3)
    said = np.where(s == 1, score + 0.1 * (1 - score), score)
    g = group_metrics(y, y, sensitive_features=s, y_score=said, metrics=NAMES[:2])
    want = np.sqrt(np.mean((0.1 * (1 - score[s == 1])) ** 2))
    assert g.by_group["debiased_calibration_error"][1] == pytest.approx(want, abs=0.015)
    assert g.worst()["calibration_error"].group == 1


def test_a_class_that_a_group_lacks_has_no_balance():
    y, score, s = sample()
    y[s == 1] = 0
    with pytest.warns(UserWarning, match="undefined in groups"):
        g = group_metrics(y, y, sensitive_features=s, y_score=score, metrics=NAMES[2:4])
    assert np.isnan(g.by_group["balance_positive_class"][1])
    assert np.isfinite(g.by_group["balance_negative_class"]).all()


def test_few_rows_have_fewer_bins():
    y, score = np.array([0, 1] * 8), np.array([0.2, 0.8] * 8)
    with pytest.warns(UserWarning, match="fewer than 20 rows"):
        g = group_metrics(
            y, y, sensitive_features=[0] * 8 + [1] * 8, y_score=score, metrics="calibration_error"
        )
    np.testing.assert_allclose(g.by_group[:, 0], 0.2)
