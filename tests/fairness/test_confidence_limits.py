"""Intervals where a bootstrap has seen too little: exact cases, and what is not known."""

import numpy as np
import pytest
from scipy.stats import beta

from trustml.fairness import group_metrics, minimum_detectable_gap, prediction_set_metrics
from trustml.fairness._limits import area_limits, mean_limits
from trustml.warnings import SmallGroupWarning


@pytest.mark.parametrize("n", [5, 30, 400])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_of_zeros_and_ones_they_are_clopper_and_pearsons(n, level):
    tail = (1 - level) / 2
    for k in (0, 1, n // 3, n):
        found = mean_limits(np.repeat([0.0, 1.0], [n - k, k]), (0.0, 1.0), level)
        low = beta.ppf(tail, k, n - k + 1) if k else 0
        high = beta.ppf(1 - tail, k + 1, n - k) if k < n else 1
        np.testing.assert_allclose([found.low, found.high], [low, high], atol=0.005)


def test_they_are_quantiles_under_dirichlet_weights_and_follow_the_scale():
    rng = np.random.default_rng(0)
    values, draws = rng.beta(2, 5, 40), 100_000
    weights = rng.dirichlet(np.ones(41), draws)
    found = mean_limits(values, (0.0, 1.0), 0.95)
    for end, tail, extra in ((found.low, 0.025, 0.0), (found.high, 0.975, 1.0)):
        share = (weights @ np.append(values, extra) < end).mean()
        assert abs(share - tail) < 0.0004 + 4 * np.sqrt(0.025 / draws)
    for scale, shift in ((1e4, -3.0), (1e-4, 5.0)):
        moved = mean_limits(shift + scale * values, (shift, shift + scale), 0.95)
        np.testing.assert_allclose(
            [moved.low, moved.high], shift + scale * np.array([found.low, found.high]), rtol=1e-7
        )


def test_areas_mirror_and_keep_their_width_where_scores_separate():
    below, above = np.arange(4.0), np.array([5.0, 6.0])
    perfect = area_limits(below, above, 0.95)
    assert perfect.estimate == perfect.high == 1
    assert perfect.low < 0.7
    rng = np.random.default_rng(0)
    below, above = rng.normal(size=25), rng.normal(1, 2, size=40)
    one, other = area_limits(below, above, 0.95), area_limits(above, below, 0.95)
    np.testing.assert_allclose([one.low, one.high], [1 - other.high, 1 - other.low], atol=1e-9)


def test_a_group_that_shows_no_variation_is_not_taken_for_certain():
    s, single = np.repeat(["a", "b"], [8, 392]), np.arange(400) % 10 < 3
    single[:8] = False
    with pytest.warns(SmallGroupWarning, match="fewer than 20 rows"):
        g = prediction_set_metrics(
            np.zeros(400, int), np.c_[np.ones(400, bool), ~single], sensitive_features=s
        )
    sizes, singles = g.ci()["set_size"], g.ci()["singleton"]
    assert sizes["low"] < 0 < sizes["high"]
    assert singles["low"] < 0 < singles["high"]


def test_the_detectable_gap_of_a_group_without_variation_is_not_small():
    rng = np.random.default_rng(0)
    s, y = np.repeat(["a", "b"], [25, 400]), rng.integers(0, 2, 425)
    score = np.where(s == "a", 0.2 + 0.6 * y, rng.random(425))
    g = group_metrics(y, y, sensitive_features=s, y_score=score, metrics=["roc_auc", "mean_score"])
    assert g.by_group["roc_auc"][0] == 1
    found = minimum_detectable_gap(g)
    np.testing.assert_array_equal(found, minimum_detectable_gap(g))  # nothing is drawn
    ends = np.asarray(g.ci(0.6827, of="by_group"))
    widths = (ends[..., 1] - ends[..., 0]) / 2
    np.testing.assert_allclose(found, (1.96 + 0.8416) * np.hypot(*widths), rtol=1e-3)
    assert (widths[0] > 0.02).all()


def test_where_no_range_is_known_there_is_no_interval():
    rng = np.random.default_rng(0)
    s, y = np.repeat(["a", "b", "c"], 30), rng.normal(size=90)
    p = y + np.where(s == "a", 1.0, rng.normal(size=90))
    g = group_metrics(y, p, sensitive_features=s, metrics=["mean_absolute_error"])
    for of in ("difference", "by_group", "signed_difference"):
        with pytest.warns(SmallGroupWarning, match="no interval"):
            ends = np.asarray(g.ci(of=of))
        unknown = {"difference": [True], "by_group": [True, False, False]}
        assert np.isnan(ends).all(-1).ravel().tolist() == unknown.get(of, [True, True])


def test_widths_that_are_one_number_have_no_error():
    rng = np.random.default_rng(0)
    middle, s = rng.normal(size=200), np.repeat([0, 1], 100)
    ends = np.stack([middle - 0.3, middle + 0.3], axis=1)
    g = prediction_set_metrics(middle, ends, sensitive_features=s)
    np.testing.assert_allclose(g.ci()["interval_width"], 0, atol=1e-9)


def test_signed_metrics_have_no_ratio():
    rng = np.random.default_rng(0)
    s, y = np.repeat(["a", "b"], 100), rng.normal(size=200)
    metrics = ["mean_error", "mean_absolute_error", "mean_prediction"]
    g = group_metrics(y, y + 0.1, sensitive_features=s, metrics=metrics[:1])
    assert np.isnan(g.ratio()).all()  # by chance positive in both groups
    g = group_metrics(y, y + rng.normal(size=200), sensitive_features=s, metrics=metrics)
    for found in (g.ratio(), g.ratio("to_overall"), g.ci(of="ratio")[:, 0]):
        assert np.isnan(found).tolist()[:2] == [True, False]
    n, score = (y > 0).astype(int), 1 / (1 + np.exp(-y))
    g = group_metrics(
        n, n, sensitive_features=s, y_score=score, metrics=["calibration_in_the_large"]
    )
    assert np.isnan(g.ratio()).all()
    assert np.isnan(g.ci(of="ratio")).all()


def test_each_group_minus_the_privileged_with_simultaneous_intervals():
    rng = np.random.default_rng(0)
    s = np.array(["x", "y", "z"])[rng.integers(0, 3, 900)]
    y = (rng.random(900) < 0.5).astype(int)
    score = rng.random(900)
    settings = {"y_score": score, "metrics": ["selection_rate", "mean_score", "roc_auc"]}
    g = group_metrics(y, y, sensitive_features=s, privileged="y", **settings)
    ends = g.ci(0.9, of="signed_difference")
    assert ends.shape == (2, 3, 2)
    for row, other in enumerate("xz"):
        both = np.isin(s, [other, "y"])
        # Of two groups the interval at the level that Bonferroni asks for.
        pair = group_metrics(
            y[both], y[both], sensitive_features=s[both], privileged="y",
            **settings | {"y_score": score[both]},
        )  # fmt: skip
        np.testing.assert_allclose(ends[row], pair.ci(0.95), atol=1e-12)
        np.testing.assert_allclose(
            np.asarray(g.signed_difference())[row], np.asarray(pair.signed_difference())[0]
        )


@pytest.mark.parametrize("seed", [None, 3, "generator"])
def test_asking_twice_gives_the_same_interval(seed):
    rng = np.random.default_rng(0)
    y, p, s = *rng.normal(size=(2, 80)), np.repeat([0, 1], 40)
    g = group_metrics(
        y, p, sensitive_features=s, metrics="mean_absolute_error",
        random_state=np.random.default_rng(1) if seed == "generator" else seed,
    )  # fmt: skip
    np.testing.assert_array_equal(g.ci(), g.ci())
