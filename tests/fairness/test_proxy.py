"""Gaps between groups that are not, or not rightly, recorded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import binom

from trustml.fairness import group_metrics, noisy_groups, proxy_bounds
from trustml.fairness._proxy import CRITERIA_OF_RATES
from trustml.warnings import ApproximationWarning

RATES = {
    "demographic_parity": ["selection_rate"],
    "equalized_odds": ["true_positive_rate", "false_positive_rate"],
    "predictive_parity": ["precision"],
    "error_parity": ["zero_one_loss"],
}


@st.composite
def populations(draw):
    """Rows whose groups are known after all, the proxy, and P(group | proxy)."""
    n_cells, k = draw(st.integers(1, 4)), draw(st.integers(2, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(2 * k, 60))
    cell, y, p = rng.integers(0, [[n_cells], [2], [2]], (3, n))
    s = (p + rng.integers(0, k, n) * rng.integers(0, 2, n)) % k  # depends on the decision
    s[:k] = np.arange(k)
    share = np.stack([(np.eye(k)[s] * (cell == z)[:, None]).sum(0) for z in range(n_cells)])
    share /= np.maximum(share.sum(1, keepdims=True), 1)
    return y, p, s, cell, share[cell]


@given(populations(), st.sampled_from(list(RATES)))
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore::trustml.warnings.SmallGroupWarning")
def test_bounds_contain_the_truth_however_groups_and_decisions_depend(population, criterion):
    y, p, s, cell, share = population
    found = proxy_bounds(y, p, probabilities=share, proxy=cell, criterion=criterion)
    g = group_metrics(y, p, sensitive_features=s, metrics=RATES[criterion])
    truth = np.asarray(g.by_group)
    known = np.isfinite(truth)
    assert (found.rate_low[known] <= truth[known] + 1e-9).all()
    assert (found.rate_high[known] >= truth[known] - 1e-9).all()
    gap = np.asarray(g.difference())
    if np.isfinite(gap).all():
        assert found.gap[0] - 1e-9 <= gap.max() <= found.gap[1] + 1e-9
    difference = truth[:, None] - truth[None]
    known = np.isfinite(difference)
    assert (found.difference_low[known] <= difference[known] + 1e-9).all()
    assert (found.difference_high[known] >= difference[known] - 1e-9).all()


def attained(y, p, cell, share, metric, first, other, rates):
    """Whether some assignment of groups within cells gives two groups these rates."""
    k = share.shape[1]
    success, counts = {
        "selection_rate": (p, np.ones_like(y)),
        "true_positive_rate": (y & p, y),
        "precision": (y & p, p),
        "zero_one_loss": (y ^ p, np.ones_like(y)),
    }[metric]
    # Variables: how many of (cell, kind of row) are in each group; rows of a kind are alike.
    kinds = sorted(set(zip(cell, success & counts, counts, strict=True)))
    size = [np.sum((cell == z) & ((success & counts) == h) & (counts == c)) for z, h, c in kinds]
    index = {(i, a): i * k + a for i in range(len(kinds)) for a in range(k)}
    equal, right = [], []
    for i, total in enumerate(size):
        row = np.zeros(len(index))
        row[[index[i, a] for a in range(k)]] = 1
        equal.append(row), right.append(total)
    for z in np.unique(cell):
        for a in range(k):
            row = np.zeros(len(index))
            row[[index[i, a] for i, kind in enumerate(kinds) if kind[0] == z]] = 1
            equal.append(row), right.append(share[cell == z][0, a] * np.sum(cell == z))
    some = np.zeros(len(index))
    for group, rate in zip((first, other), rates, strict=True):
        row = np.zeros(len(index))
        for i, (_, hit, count) in enumerate(kinds):
            row[index[i, group]] = hit - rate * count
            some[index[i, group]] -= count
        equal.append(row), right.append(0)
    answer = linprog(some, A_eq=np.array(equal), b_eq=right, bounds=(0, None))
    return answer.status == 0 and answer.fun < 0


@pytest.mark.parametrize("metric", ["selection_rate", "true_positive_rate", "precision"])
def test_ends_of_every_difference_are_attained(metric):
    criterion = {
        "selection_rate": "demographic_parity",
        "true_positive_rate": "equal_opportunity",
        "precision": "predictive_parity",
    }[metric]
    for seed in range(6):
        rng = np.random.default_rng(seed)
        cell, y, p = rng.integers(0, [[3], [2], [2]], (3, 80))
        share = rng.dirichlet(np.ones(2 + seed % 2), 3)[cell]
        found = proxy_bounds(y, p, probabilities=share, proxy=cell, criterion=criterion)
        for a in range(share.shape[1]):
            for b in range(share.shape[1]):
                if a == b:
                    continue
                ends = found.rate_high[a, 0], found.rate_low[b, 0]
                assert found.difference_high[a, b, 0] == ends[0] - ends[1]
                assert attained(y, p, cell, share, metric, a, b, ends)
                beyond = ends[0] + 0.01, ends[1]
                assert not attained(y, p, cell, share, metric, a, b, beyond)


def test_a_proxy_that_tells_all_or_nothing():
    rng = np.random.default_rng(0)
    y, p, s = rng.integers(0, 2, (3, 400))
    told = np.eye(2)[s]
    for criterion in CRITERIA_OF_RATES:
        found = proxy_bounds(y, p, probabilities=told, criterion=criterion)
        assert found.gap[0] == pytest.approx(found.gap[1], abs=1e-12)
    g = group_metrics(y, p, sensitive_features=s, metrics=["selection_rate"])
    known = proxy_bounds(y, p, probabilities=told)
    np.testing.assert_allclose(known.rate_low, g.by_group, rtol=1e-12)
    np.testing.assert_allclose(known.shares, np.bincount(s) / 400)
    nothing = proxy_bounds(y, p, probabilities=np.full((400, 2), 0.5))
    assert nothing.gap[0] == 0
    # Half of the rows are in each group; those selected can all be in one.
    rate = p.mean()
    assert nothing.gap[1] == pytest.approx(2 * min(rate, 1 - rate))
    assert "at most" in repr(nothing)


def test_finer_proxies_give_narrower_bounds_and_names_are_kept():
    rng = np.random.default_rng(1)
    cell, y, p = rng.integers(0, [[6], [2], [2]], (3, 900))
    f = np.linspace(0.1, 0.9, 6)[cell]
    given_names = {"probabilities": {"f": f, "m": 1 - f}}
    fine = proxy_bounds(y, p, proxy=cell, **given_names)
    coarse = proxy_bounds(y, p, proxy=cell // 2, **given_names)
    assert coarse.gap[0] <= fine.gap[0]
    assert fine.gap[1] < coarse.gap[1]
    assert fine.groups == ("f", "m")
    words = np.array(["rest", "x", "y", "z", "u", "v"], dtype=object)[cell]
    same = proxy_bounds(y, p, proxy=words, probabilities=np.column_stack([f, 1 - f]))
    np.testing.assert_allclose(same.difference_high, fine.difference_high)
    assert proxy_bounds(y, p, **given_names).gap == pytest.approx(fine.gap)


def test_bad_probabilities_are_named():
    y = np.tile([0, 1], 30)
    f = np.random.default_rng(0).random(60)
    with pytest.raises(ValueError, match=r"pass proxy=, bins"):
        proxy_bounds(y, y, probabilities={"f": f, "m": 1 - f})
    with pytest.raises(ValueError, match="sum to 1"):
        proxy_bounds(y, y, probabilities={"f": f, "m": f})
    with pytest.raises(ValueError, match=r"shape \(60, k\)"):
        proxy_bounds(y, y, probabilities=f)
    with pytest.raises(ValueError, match="proxy must have 60 rows"):
        proxy_bounds(y, y, probabilities=np.column_stack([f, 1 - f]), proxy=y[:9])
    with pytest.raises(ValueError, match="criterion"):
        proxy_bounds(y, y, probabilities=np.column_stack([f, 1 - f]), criterion="loss_parity")


def test_exact_counts_are_unmixed_exactly():
    """Of each true cell the very share that the error rates say is recorded elsewhere."""
    confusion = np.array([[0.75, 0.25], [0.5, 0.5]])
    true_counts = {(0, 1, 1): 40, (0, 1, 0): 8, (0, 0, 1): 20, (0, 0, 0): 12,
                   (1, 1, 1): 16, (1, 1, 0): 24, (1, 0, 1): 4, (1, 0, 0): 36}  # fmt: skip
    rows = [
        (r, y, p)
        for (a, y, p), count in true_counts.items()
        for r in (0, 1)
        for _ in range(int(count * confusion[a, r]))
    ]
    r, y, p = np.array(rows).T
    for criterion, expected in {
        "demographic_parity": [[60 / 80], [20 / 80]],
        "equalized_odds": [[40 / 48, 20 / 32], [16 / 40, 4 / 40]],
        "predictive_parity": [[40 / 60], [16 / 20]],
    }.items():
        found = noisy_groups(
            y, p, sensitive_features=r, confusion=confusion, criterion=criterion
        )  # fmt: skip
        np.testing.assert_allclose(found.by_group, expected, rtol=1e-12)
        assert found.gap == pytest.approx(np.ptp(expected, axis=0).max())
        assert found.recorded_gap < found.gap
        assert found.low.min() <= found.difference.min()
        assert "recorded groups" in repr(found)


def test_without_errors_it_is_the_difference_of_the_recorded_groups():
    rng = np.random.default_rng(0)
    y, p, s = rng.integers(0, [[2], [2], [3]], (3, 600))
    found = noisy_groups(y, p, sensitive_features=s, confusion=np.eye(3))
    names = ["true_positive_rate", "false_positive_rate"]
    g = group_metrics(y, p, sensitive_features=s, metrics=names)
    np.testing.assert_allclose(found.by_group, g.by_group, rtol=1e-12)
    assert found.gap == pytest.approx(found.recorded_gap)
    # Wald's standard error of a difference of proportions, and Bonferroni's over six.
    rates = np.asarray(g.by_group)[:2, 0]
    n = np.array([np.sum(y[s == a]) for a in (0, 1)])
    half = 2.6383 * np.sqrt((rates * (1 - rates) / n).sum())
    assert found.high[0, 0] - found.difference[0, 0] == pytest.approx(half, rel=1e-4)


def test_intervals_cover_the_true_gap():
    rng, hits, repetitions = np.random.default_rng(3), 0, 500
    confusion = np.array([[0.9, 0.1], [0.2, 0.8]])
    for _ in range(repetitions):
        a = rng.integers(0, 2, 800)
        p = (rng.random(800) < np.array([0.3, 0.5])[a]).astype(int)
        recorded = (rng.random(800) < confusion[a, 1]).astype(int)
        found = noisy_groups(
            p, p, sensitive_features=recorded, confusion=confusion,
            criterion="demographic_parity", alpha=0.1,
        )  # fmt: skip
        hits += found.low[0, 0] <= 0.2 <= found.high[0, 0]
    assert binom.ppf(5e-5, repetitions, 0.88) <= hits <= binom.isf(5e-5, repetitions, 0.92)


def test_error_rates_that_cannot_be_are_named():
    y, s = np.tile([0, 1], 30), np.repeat([0, 1], 30)
    settings_ = {"sensitive_features": s, "criterion": "demographic_parity"}
    with pytest.raises(ValueError, match="no inverse"):
        noisy_groups(y, y, confusion=np.full((2, 2), 0.5), **settings_)
    with pytest.raises(ValueError, match="sum 1"):
        noisy_groups(y, y, confusion=[[0.9, 0.2], [0.1, 0.8]], **settings_)
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        noisy_groups(y, y, confusion=np.eye(3), **settings_)
    with pytest.warns(ApproximationWarning, match="do not fit"):
        noisy_groups(s, s, confusion=[[0.8, 0.2], [0.2, 0.8]], **settings_)
