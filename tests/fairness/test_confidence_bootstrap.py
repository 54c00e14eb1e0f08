"""Replicates drawn from the cells' counts: the law of those drawn row by row."""

import numpy as np
import pytest
from scipy import stats

from trustml.fairness import bootstrap_groups, group_metrics

B = 20_000


def sample(n=400, n_groups=3, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.integers(0, n_groups, n)
    y = (rng.random(n) < 0.4).astype(int)
    score = np.clip(0.1 + 0.3 * y + 0.5 * rng.random(n), 0, 1)
    return y, (score > 0.5).astype(int), s, score


def test_moments_are_the_closed_forms():
    y, p, s, _ = sample()
    g = group_metrics(y, p, sensitive_features=s, metrics=["selection_rate", "accuracy"])
    draws = bootstrap_groups(g, B, random_state=0)
    for k in range(3):
        own = np.stack([p[s == k], y[s == k] == p[s == k]])
        exact = np.cov(own, bias=True) / own.shape[1]
        found = np.cov(draws.by_group[:, k].T)
        spread = np.sqrt(exact.diagonal() / B)
        np.testing.assert_array_less(abs(draws.by_group[:, k].mean(0) - g.by_group[k]), 5 * spread)
        # A covariance of B draws errs by at most sqrt(2 / B) of the product of deviations.
        scale = np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))
        assert (abs(found - exact) < 5 * np.sqrt(2 / B) * scale).all()
        np.testing.assert_allclose(
            draws.standard_errors()[k], draws.by_group[:, k].std(0, ddof=1), rtol=1e-12
        )
    # Groups are drawn apart: no correlation beyond sampling error.
    between = np.corrcoef(draws.by_group[:, :, 0].T)
    assert abs(between[np.triu_indices(3, 1)]).max() < 5 / np.sqrt(B)


@pytest.mark.parametrize("method", ["multinomial", "poisson"])
@pytest.mark.parametrize("stratify", [True, False])
def test_cells_and_rows_give_one_law(method, stratify):
    y, p, s, _ = sample(n=120)
    names = {"cells": "true_positive_rate", "rows": lambda t, q: np.mean(q[t == 1])}
    g = group_metrics(y, p, sensitive_features=s, metrics=names)
    draws = bootstrap_groups(g, 1500, method=method, stratify=stratify, random_state=1)
    for k in range(3):
        assert stats.ks_2samp(*draws.by_group[:, k].T).pvalue > 1e-5


@pytest.mark.parametrize("method", ["multinomial", "poisson"])
def test_weighted_means_are_those_of_the_drawn_rows(method):
    rng = np.random.default_rng(0)
    t, q, s = rng.normal(size=90), rng.normal(size=90), np.arange(90) % 3
    for name, metric in {
        "mean_prediction": lambda t, q: q.mean(),
        "mean_error": lambda t, q: (q - t).mean(),
        "mean_absolute_error": lambda t, q: abs(q - t).mean(),
        "mean_squared_error": lambda t, q: ((q - t) ** 2).mean(),
    }.items():
        one, other = (
            bootstrap_groups(
                group_metrics(t, q, sensitive_features=s, metrics=m), 50, method=method,
                random_state=3,
            ).by_group
            for m in ([name], {"own": metric})
        )  # fmt: skip
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_undefined_replicates_are_nan_and_left_out():
    s, y = np.repeat([0, 1], 40), np.zeros(80, dtype=int)
    y[:20], y[40] = 1, 1  # one positive in group 1: absent from (39/40)^40 of its replicates
    g = group_metrics(y, y, sensitive_features=s, metrics=["true_positive_rate"])
    draws = bootstrap_groups(g, 4000, random_state=0)
    missing = np.isnan(draws.by_group[:, 1, 0]).mean()
    share = (39 / 40) ** 40
    assert abs(missing - share) < 5 * np.sqrt(share * (1 - share) / 4000)
    np.testing.assert_array_equal(draws.standard_errors(), 0)
    np.testing.assert_array_equal(draws.ci(), 1)


def test_intervals_are_quantiles_and_repeat_with_their_seed():
    y, p, s, score = sample()
    g = group_metrics(y, p, sensitive_features=s, y_score=score, metrics=["accuracy", "mean_score"])
    draws = bootstrap_groups(g, 500, random_state=4)
    np.testing.assert_allclose(
        draws.ci(0.9),
        np.moveaxis(np.quantile(draws.by_group, [0.05, 0.95], axis=0), 0, -1),
        rtol=1e-12,
    )
    again = bootstrap_groups(g, 500, random_state=4)
    np.testing.assert_array_equal(draws.by_group, again.by_group)
    assert "standard error of accuracy" in repr(draws)


def test_bad_options_are_named():
    y, p, s, _ = sample()
    g = group_metrics(y, p, sensitive_features=s)
    with pytest.raises(ValueError, match="method must be one of"):
        bootstrap_groups(g, method="rows")
    with pytest.raises(ValueError, match="n_resamples"):
        bootstrap_groups(g, 1)
    with pytest.raises(ValueError, match="level"):
        bootstrap_groups(g, 10).ci(95)
