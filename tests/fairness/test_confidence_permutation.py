"""Permutation tests of gaps against enumeration, and the bands they go with."""

import numpy as np
import pytest
from scipy import integrate, stats

from trustml.fairness import gap_test, group_metrics, minimum_detectable_gap
from trustml.fairness._simultaneous import critical_value, pairwise_level


def sample(n=300, n_groups=3, seed=0, gap=0.0):
    rng = np.random.default_rng(seed)
    s = rng.integers(0, n_groups, n)
    y = (rng.random(n) < 0.5).astype(int)
    score = np.clip(0.2 + 0.2 * y + 0.5 * rng.random(n) + gap * s, 0, 1)
    return y, (score > 0.5).astype(int), s, score


def test_two_groups_have_the_p_value_of_the_enumeration():
    y, p, s, _ = sample(n=60, n_groups=2, seed=1, gap=0.05)
    g = group_metrics(y, p, sensitive_features=s, metrics=["selection_rate", "true_positive_rate"])
    draws = 20_000
    found = gap_test(g, draws, random_state=0)
    for j, rows in enumerate([np.full(60, True), y == 1]):
        n0, n1, K = (s[rows] == 0).sum(), (s[rows] == 1).sum(), p[rows].sum()
        h = np.arange(max(0, K - n1), min(n0, K) + 1)
        gaps = abs(h / n0 - (K - h) / n1)
        exact = stats.hypergeom(n0 + n1, n0, K).pmf(h)[gaps >= found.gap[j] - 1e-9].sum()
        error = np.sqrt(exact * (1 - exact) / draws)
        assert abs(found.p_values[j] - exact) < 5 * error + 1 / draws
        np.testing.assert_array_equal(found.group_p_values[:, j], found.p_values[j])


def test_a_rate_and_the_same_number_as_a_callable_agree():
    y, p, s, _ = sample(n=90)
    metrics = {"rate": "selection_rate", "own": lambda t, q: q.mean()}
    g = group_metrics(y, p, sensitive_features=s, metrics=metrics)
    found = gap_test(g, 2000, random_state=0)
    p_values = np.vstack([found.p_values, found.group_p_values / 3])
    # Two estimates of 2000 shuffles each, before Holm's factor of at most three.
    assert abs(np.diff(p_values, axis=1)).max() < 5 * np.sqrt(2 * 0.25 / 2000)


def test_a_real_gap_is_found_and_its_group_named():
    y, _, s, score = sample(n=900)
    score = score + 0.3 * (s == 2)
    g = group_metrics(
        y, (score > 0.6).astype(int), sensitive_features=np.array(["a", "b", "c"])[s],
        y_score=score, metrics=["selection_rate", "mean_score"], random_state=0,
    )  # fmt: skip
    found = gap_test(g, 199, random_state=0)
    np.testing.assert_array_equal(found.p_values, 1 / 200)
    np.testing.assert_allclose(found.group_p_values["c"], 3 / 200)
    assert "p of c" in repr(found)
    assert (minimum_detectable_gap(g, random_state=0) < g.difference()).all()
    again = gap_test(g, 199, random_state=0)
    np.testing.assert_array_equal(found.group_p_values, again.group_p_values)


@pytest.mark.filterwarnings("ignore::trustml.warnings.SmallGroupWarning")
def test_undefined_groups_are_left_out():
    y, p, s, _ = sample(n=200)
    y[s == 1] = 0
    g = group_metrics(y, p, sensitive_features=s, metrics=["true_positive_rate"])
    found = gap_test(g, 99, random_state=0)
    assert np.isnan(found.group_p_values[1, 0])
    assert np.isfinite(found.group_p_values[[0, 2], 0]).all()
    y[s == 2] = 0
    g = group_metrics(y, p, sensitive_features=s, metrics=["true_positive_rate"])
    assert np.isnan(gap_test(g, 99).p_values[0])
    assert np.isnan(minimum_detectable_gap(g)[0])


def test_the_detectable_gap_shrinks_with_the_root_of_n():
    y, p, s, score = sample(n=400)
    names = {"metrics": ["selection_rate", "mean_score"]}
    one, four = (
        minimum_detectable_gap(
            group_metrics(
                np.tile(y, r), np.tile(p, r), sensitive_features=np.tile(s, r),
                y_score=np.tile(score, r), **names,
            ), random_state=0,
        )
        for r in (1, 4)
    )  # fmt: skip
    # The mean's error comes from 500 replicates: relative error 1/sqrt(1000), twice.
    np.testing.assert_allclose(one / four, 2, rtol=5 * np.sqrt(2 / 1000))


@pytest.mark.parametrize("k", [2, 3, 10])
def test_the_critical_value_is_the_quantile_of_the_range(k):
    q = critical_value(0.95, k) * np.sqrt(2)
    norm = stats.norm
    inside, _ = integrate.quad(
        lambda z: k * norm.pdf(z) * (norm.cdf(z) - norm.cdf(z - q)) ** (k - 1), -9, 9 + q
    )
    assert inside == pytest.approx(0.95, abs=1e-6)
    assert 1 - 0.05 <= pairwise_level(0.95, k) + 1e-12 <= 1 - 0.05 / (k * (k - 1) / 2) + 1e-9


def test_bad_options_are_named():
    y, p, s, _ = sample()
    g = group_metrics(y, p, sensitive_features=s)
    with pytest.raises(ValueError, match="n_permutations"):
        gap_test(g, 0)
    with pytest.raises(ValueError, match="power"):
        minimum_detectable_gap(g, power=80)
    with pytest.raises(ValueError, match="level"):
        minimum_detectable_gap(g, level=95)
