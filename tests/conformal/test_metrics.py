"""Measures against hand-made cases and definitions."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from trustml.conformal import metrics
from trustml.conformal._slab import _search
from trustml.evidence import bootstrap, clopper_pearson, ks_test, mean_interval

SETS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]], dtype=bool)


def test_coverage_size_and_width() -> None:
    assert metrics.coverage([0, 2, 1, 2], SETS) == 0.5
    assert metrics.set_size(SETS) == 1.5
    assert metrics.coverage(["a", "c", "b", "c"], SETS, classes=["a", "b", "c"]) == 0.5
    both = np.stack([SETS, ~SETS], axis=2)
    assert metrics.coverage([0, 2, 1, 2], both).tolist() == [0.5, 0.5]
    assert metrics.set_size(torch.from_numpy(both)).tolist() == [1.5, 1.5]
    intervals = np.array([[0.0, 1.0], [2.0, 4.0]])
    assert metrics.coverage([1.0, 5.0], intervals) == 0.5
    assert metrics.interval_width(intervals) == 1.5
    assert metrics.interval_width(np.stack([intervals, 2 * intervals], 2)).tolist() == [1.5, 3.0]
    assert metrics.interval_width([[-np.inf, np.inf]]) == np.inf


def test_coverage_by_group_has_exact_intervals() -> None:
    found = metrics.coverage_by_group([0, 2, 1, 2], SETS, groups=["m", "f", "m", "f"], level=0.9)
    assert found.groups.tolist() == ["f", "m"]
    assert found.coverage.tolist() == [0.5, 0.5]
    assert (found.low[0], found.high[0]) == tuple(clopper_pearson(1, 2, 0.9))
    by_class = metrics.coverage_by_group([0, 2, 1, 2], SETS)
    assert by_class.n.tolist() == [1, 1, 2]
    assert "coverage" in found.to_frame().columns
    assert "<table>" in found._repr_html_()


def test_coverage_gap_is_the_mean_deviation() -> None:
    assert metrics.coverage_gap([0, 2, 1, 2], SETS, alpha=0.1) == pytest.approx(
        (0.1 + 0.9 + 0.4) / 3
    )


def test_size_stratified_coverage_finds_the_sure_and_wrong() -> None:
    sets = np.zeros((300, 4), dtype=bool)
    sets[:, 0] = True
    sets[200:, 1:] = True
    y = np.zeros(300, dtype=int)
    y[:60] = 3
    assert metrics.size_stratified_coverage(y, sets) == pytest.approx(140 / 200)
    widths = np.stack([-np.arange(300.0), np.arange(300.0)], 1)
    assert metrics.size_stratified_coverage(np.full(300, 30.5), widths, n_bins=10) == 0.0
    assert metrics.size_stratified_coverage(np.full(300, 30.5), widths, n_bins=1) == 269 / 300
    # A few rows of a rare size must not decide: they join their neighbour.
    sets[0] = [False, True, False, False]
    rare = np.vstack([sets, np.zeros((3, 4), dtype=bool)])
    assert metrics.size_stratified_coverage(np.append(y, [0, 0, 0]), rare) > 0.6


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=3, max_size=25), st.integers(2, 6), st.integers(0, 99))
def test_the_slab_search_is_exact(hit: list, least: int, seed: int) -> None:
    least = min(least, len(hit))
    rng = np.random.default_rng(seed)
    along, hits = rng.normal(size=(len(hit), 3)), np.array(hit)
    column, low, high = _search(along, hits, least)
    inside = (along[:, column] >= low) & (along[:, column] <= high)
    assert inside.sum() >= least
    best = min(
        hits[order][i:j].mean()
        for order in np.argsort(along, axis=0).T
        for i in range(len(hit))
        for j in range(i + least, len(hit) + 1)
    )
    assert hits[inside].mean() == pytest.approx(best)


def test_worst_slab_is_found_and_measured_on_other_rows() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 3))
    bad = X[:, 0] > 1  # 16 % of the rows
    hit = np.where(bad, rng.uniform(size=4000) < 0.3, rng.uniform(size=4000) < 0.95)
    found = metrics.worst_slab_coverage(
        X, np.zeros(4000, dtype=int), np.stack([hit, ~hit], 1), delta=0.15, random_state=0
    )
    assert found.estimate < 0.45
    assert found.contains(found.estimate)
    # Labels' noise alone: the search must not slander a predictor that covers evenly.
    even = rng.uniform(size=4000) < 0.9
    fair = metrics.worst_slab_coverage(
        X, np.zeros(4000, dtype=int), np.stack([even, ~even], 1), delta=0.2, random_state=0
    )
    assert fair.contains(0.9)


def test_ece_by_hand() -> None:
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    y = [0, 1, 1, 1]
    # Bins of width 0.1: 0.9 holds rows 0, 1 (accuracy 0.5), 0.6 and 0.8 one right row each.
    expected = (2 * 0.4 + 0.4 + 0.2) / 4
    assert metrics.ece(y, p, n_bins=10) == pytest.approx(expected)
    first = (abs(1 - 1.8) + 0.4 + 0.2) / 4
    assert metrics.ece(y, p, n_bins=10, classwise=True) == pytest.approx(first)
    assert metrics.ece(["n", "y", "y", "y"], p, n_bins=10, classes=["n", "y"]) == pytest.approx(
        expected
    )
    # At most four bins: 0.6 and 0.8 alone, 0.9 and the empty rest.
    assert metrics.ece(y, p, n_bins=4, strategy="quantile") == pytest.approx(expected)


def test_reliability_is_what_ece_sums() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], size=500)
    y = rng.integers(3, size=500)
    for strategy in ("uniform", "quantile"):
        found = metrics.reliability(y, p, n_bins=8, strategy=strategy)
        assert found.n.sum() == 500
        gaps = np.abs(found.accuracy - found.confidence) * found.n
        assert gaps.sum() / 500 == pytest.approx(metrics.ece(y, p, 8, strategy=strategy))
        assert (found.accuracy_low <= found.accuracy).all()
        assert (found.confidence <= found.high).all()
        assert (found.confidence >= found.low).all()


def test_bins_hold_their_right_ends() -> None:
    p = np.array([[0.5, 0.5], [0.75, 0.25], [0.76, 0.24], [1.0, 0.0]])
    found = metrics.reliability([0, 0, 0, 0], p, n_bins=4)
    assert found.n.tolist() == [1, 1, 2]
    assert found.low.tolist() == [0.25, 0.5, 0.75]
    assert found.high.tolist() == [0.5, 0.75, 1.0]


def test_calibration_test_counts_ties() -> None:
    # Six coins show four different errors only: ties must count against calibration's foes.
    rng, p = np.random.default_rng(3), np.full((6, 2), 0.5)
    p_values = [
        metrics.calibration_test(rng.integers(2, size=6), p, n_resamples=19, random_state=rng)
        for _ in range(200)
    ]
    found = [result.p_value for result in p_values]
    assert ks_test(found, alternative="greater").p_value > 1e-4
    assert max(found) == 1.0


@pytest.mark.parametrize("classwise", [False, True])
def test_calibration_test_keeps_its_level_and_finds_overconfidence(classwise: bool) -> None:
    rng, p_values = np.random.default_rng(1), []
    for _ in range(100):
        p = rng.dirichlet([1, 1, 1], size=60)
        y = (rng.random((60, 1)) > p.cumsum(1)).sum(1).clip(max=2)
        p_values.append(
            metrics.calibration_test(
                y, p, n_bins=5, classwise=classwise, n_resamples=49, random_state=rng
            ).p_value
        )
    assert np.sum(np.array(p_values) <= 0.1) <= binom.ppf(1 - 1e-4, 100, 0.1)
    assert ks_test(p_values).p_value > 1e-4
    p = rng.dirichlet([1, 1, 1], size=500)
    y = (rng.random((500, 1)) > p.cumsum(1)).sum(1).clip(max=2)
    sharp = p**3 / (p**3).sum(1, keepdims=True)
    found = metrics.calibration_test(y, sharp, classwise=classwise, n_resamples=99, random_state=0)
    assert found.p_value == 0.01
    assert found.effect_size > 0.05


def test_coverage_test_is_the_law_by_enumeration() -> None:
    # Every way in which 3 test scores fall among 9 of calibration is as likely as another.
    n_cal, n, alpha, rank = 9, 3, 0.3, 7
    counts = []
    for places in itertools.combinations(range(n_cal + n), n):
        calibration = [i for i in range(n_cal + n) if i not in places]
        counts.append(sum(i <= calibration[rank - 1] for i in places))
    for k in range(n + 1):
        sets = np.eye(2, dtype=bool)[[0] * k + [1] * (n - k)]
        less, greater, both = (
            metrics.coverage_test([0] * n, sets, n_cal, alpha, alternative=side).p_value
            for side in ("less", "greater", "two-sided")
        )
        assert less == pytest.approx(np.mean([c <= k for c in counts]))
        assert greater == pytest.approx(np.mean([c >= k for c in counts]))
        assert both == pytest.approx(min(1, 2 * min(less, greater)))
    found = metrics.coverage_test([0, 0, 0], np.eye(2, dtype=bool)[[0, 0, 1]], n_cal, alpha)
    assert found.statistic == pytest.approx(2 / 3)
    assert found.effect_size == pytest.approx(2 / 3 - np.mean(counts) / 3)
    # Too few calibration rows: everything was promised, and one miss breaks it.
    full = np.ones((3, 2), dtype=bool)
    assert metrics.coverage_test([0, 0, 0], full, 8, 0.1).p_value == 1.0
    full[0, 0] = False
    assert metrics.coverage_test([0, 0, 0], full, 8, 0.1).p_value == 0.0


def test_proper_scores_and_their_intervals() -> None:
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet([1, 1, 1], size=80), rng.integers(3, size=80)
    indicator = np.eye(3)[y]
    squares = ((p - indicator) ** 2).sum(1)
    found = metrics.brier(y, p, level=0.9)
    assert found.estimate == pytest.approx(squares.mean())
    assert tuple(found) == pytest.approx(tuple(mean_interval(squares, 0.9)))
    names = np.array(["a", "b", "c"])
    assert metrics.brier(names[y], p, names).estimate == found.estimate
    assert metrics.nll(y, p).estimate == pytest.approx(log_loss(y, p))
    assert metrics.brier([0, 0], [[1.0, 0.0], [1.0, 0.0]]).low == 0.0
    assert metrics.brier([0, 1], [[0.0, 1.0], [0.0, 1.0]]).high == 2.0
    never = metrics.nll([0, 1], [[0.0, 1.0], [0.0, 1.0]])
    assert (never.estimate, never.low, never.high) == (math.inf,) * 3
    assert "1 of 2" in never.method


def test_proper_scores_are_least_for_the_truth() -> None:
    rng = np.random.default_rng(1)
    p = rng.dirichlet([1, 1, 1], size=4000)
    y = (rng.random((4000, 1)) > p.cumsum(1)).sum(1).clip(max=2)
    for power in (0.5, 2.0):
        wrong = p**power / (p**power).sum(1, keepdims=True)
        for score in (metrics.brier, metrics.nll):
            assert score(y, p).estimate < score(y, wrong).estimate


def test_debiased_ece_is_the_mean_of_products_of_different_rows() -> None:
    p = np.array([[0.9, 0.1]] * 3 + [[0.6, 0.4]] * 4)
    y = [0, 1, 0, 0, 1, 1, 1]
    products = [
        [a * b for a, b in itertools.permutations(gaps, 2)]
        for gaps in ([0.1, -0.9, 0.1], [0.4, -0.6, -0.6, -0.6])
    ]
    squared = 3 / 7 * np.mean(products[0]) + 4 / 7 * np.mean(products[1])
    found = metrics.debiased_ece(y, p, n_bins=2).estimate
    assert found == pytest.approx(math.sqrt(squared))


def test_debiased_ece_has_no_bias_and_covers() -> None:
    rng = np.random.default_rng(2)
    squares, biased, alarms, misses = [], [], 0, 0
    for _ in range(300):
        confidence = rng.uniform(0.55, 0.95, size=300)
        p = np.stack([confidence, 1 - confidence], 1)
        y = (rng.random(300) > confidence).astype(int)
        found = metrics.debiased_ece(y, p, n_bins=10)
        alarms += found.low > 0
        biased.append(metrics.ece(y, p, n_bins=10, strategy="quantile"))
        y = (rng.random(300) > confidence - 0.15).astype(int)
        found = metrics.debiased_ece(y, p, n_bins=10)
        misses += not found.contains(0.15)
        squares.append(found.estimate**2)
    assert np.mean(biased) > 0.05  # what ece shows of probabilities that are right
    assert alarms <= binom.ppf(1 - 1e-4, 300, 0.05)
    assert misses <= binom.ppf(1 - 1e-4, 300, 0.06)
    error = 4 * np.std(squares) / math.sqrt(300)
    assert abs(np.mean(squares) - 0.15**2) < error


def test_hsic_is_its_dense_definition() -> None:
    rng = np.random.default_rng(0)
    size = np.round(rng.gamma(2, size=60), 1)
    hit = rng.random(60) < 0.9 - 0.1 * (size > 2)
    intervals = np.stack([-size / 2, size / 2], 1)
    y = np.where(hit, 0.0, 99.0)
    for bandwidth in (1.0, 0.05, None):
        unit = bandwidth or size.std()
        of_size = np.exp(-((size[:, None] - size) ** 2) / unit**2)
        of_hit = np.exp(-((hit[:, None] * 1.0 - hit) ** 2))
        centre = np.eye(60) - 1 / 60
        dense = np.trace(of_hit @ centre @ of_size @ centre) / 59**2
        found = metrics.hsic(y, intervals, bandwidth=bandwidth, n_permutations=1, random_state=0)
        assert found.statistic == pytest.approx(math.sqrt(dense))
        both = [centre @ kernel @ centre for kernel in (of_size, of_hit)]
        alike = np.sum(both[0] * both[1]) / np.prod([np.linalg.norm(b) for b in both])
        assert found.effect_size == pytest.approx(alike)


def test_hsic_keeps_its_level_and_finds_what_a_correlation_cannot() -> None:
    rng, p_values = np.random.default_rng(1), []
    for _ in range(200):
        size = rng.integers(1, 5, size=40)
        sets = np.arange(4) < size[:, None]
        y = np.where(rng.random(40) < 0.7, 0, 9)
        wide = np.hstack([sets, np.zeros((40, 6), dtype=bool)])
        p_values.append(metrics.hsic(y, wide, n_permutations=19, random_state=rng).p_value)
    assert ks_test(p_values, alternative="greater").p_value > 1e-4
    assert np.sum(np.array(p_values) <= 0.1) >= binom.ppf(1e-4, 200, 0.1)
    size = np.repeat([1.0, 2.0, 3.0], 100)
    hit = np.tile(np.arange(100) < 95, 3)
    hit[100:200] = np.arange(100) < 70  # neither the small nor the wide
    found = metrics.hsic(np.where(hit, 0.0, 9.0), np.stack([-size, size], 1), random_state=0)
    assert found.p_value == 0.001
    equal = metrics.hsic(np.where(hit, 0.0, 9.0), np.tile([-1.0, 1.0], (300, 1)))
    assert (equal.statistic, equal.p_value, equal.effect_size) == (0.0, 1.0, 0.0)


def test_ert_is_the_l1_error_of_conditional_coverage() -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(4000, 2))
    chance = np.where(X[:, 0] > 1, 0.5, 0.97)
    truth = np.abs(chance - 0.9).mean()
    hit = rng.random(4000) < chance
    sets = np.stack([hit, ~hit], 1)
    found = metrics.ert(X, np.zeros(4000, dtype=int), sets, 0.1, random_state=0)
    assert found.low < truth < found.high + 0.01
    assert found.low > 0.05
    linear = metrics.ert(X, np.zeros(4000, dtype=int), sets, 0.1, LogisticRegression(),
                         n_splits=3, random_state=0)  # fmt: skip
    assert 0.05 < linear.low < truth
    low, high = (float(part.split()[-1]) for part in found.method.split(",")[2:])
    assert low + high == pytest.approx(found.estimate, abs=1e-3)
    assert low > high > 0
    # Everything covered, whatever x: every side is known, and the error is alpha.
    always = metrics.ert(X, np.zeros(4000, dtype=int), np.ones((4000, 2), dtype=bool), 0.1)
    assert always.estimate == pytest.approx(0.1)


def test_ert_of_even_coverage_raises_no_alarm() -> None:
    rng, alarms = np.random.default_rng(4), 0
    for _ in range(200):
        X, hit = rng.normal(size=(150, 2)), rng.random(150) < 0.8
        found = metrics.ert(X, np.zeros(150, dtype=int), np.stack([hit, ~hit], 1), 0.2,
                            LogisticRegression(), random_state=rng)  # fmt: skip
        alarms += found.low > 0
    assert alarms <= binom.ppf(1 - 1e-4, 200, 0.025)


def test_every_measure_takes_a_bootstrap_interval() -> None:
    rng = np.random.default_rng(5)
    size, y = rng.integers(1, 4, size=200), rng.integers(2, size=200)
    sets = np.arange(3) < size[:, None]
    for measure in (metrics.coverage, metrics.coverage_gap, metrics.size_stratified_coverage):
        found = bootstrap(measure, y, sets, n_resamples=50, random_state=0)
        assert found.estimate == measure(y, sets)
        assert found.low < found.high
    found = bootstrap(metrics.set_size, sets, n_resamples=50, random_state=0)
    assert found.contains(metrics.set_size(sets))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: metrics.coverage(SETS, [0, 2, 1, 2]), "order is"),
        (lambda: metrics.coverage([0, 2], SETS), r"shape \(4,\)"),
        (lambda: metrics.coverage([0, 2, 1, 3], SETS), r"columns: \[3\]"),
        (lambda: metrics.coverage([0, 2, 1, 2], SETS, classes=[0, 1]), r"shape \(3,\)"),
        (lambda: metrics.coverage([], SETS[:0]), "with rows"),
        (lambda: metrics.coverage([0, 2, 1, 2], SETS.astype(int)), "boolean"),
        (lambda: metrics.coverage([0.0], [[np.nan, 1.0]]), "NaN"),
        (lambda: metrics.coverage([0.0, 1.0], [[0.0, 1.0]]), r"shape \(1,\)"),
        (lambda: metrics.set_size(SETS.astype(float)), "bool"),
        (lambda: metrics.interval_width(SETS), "intervals"),
        (lambda: metrics.coverage_by_group([0], SETS[:1], groups=[0, 1]), "groups"),
        (lambda: metrics.coverage_gap([0], SETS[:1, :, None]), "one alpha"),
        (lambda: metrics.size_stratified_coverage([0], SETS[:1], n_bins=0), "n_bins"),
        (lambda: metrics.worst_slab_coverage([[0.0]] * 4, [0] * 4, SETS), "too few"),
        (lambda: metrics.worst_slab_coverage([[0.0]] * 4, [0] * 4, SETS, delta=2), "delta"),
        (lambda: metrics.worst_slab_coverage([[np.nan]] * 4, [0] * 4, SETS), "NaN"),
        (lambda: metrics.ece([0], [[2.0, -1.0]]), "logits"),
        (lambda: metrics.ece([0], [0.5, 0.5]), "order is"),
        (lambda: metrics.ece([2], [[0.5, 0.5]]), r"columns: \[2\]"),
        (lambda: metrics.ece([0], [[np.nan, 0.5]]), "NaN"),
        (lambda: metrics.ece([0], [[0.5, 0.5]], n_bins=0), "n_bins"),
        (lambda: metrics.ece([0], [[0.5, 0.5]], strategy="adaptive"), "strategy"),
        (lambda: metrics.calibration_test([0], [[0.5, 0.5]], n_resamples=0), "n_resamples"),
        (lambda: metrics.coverage_test([0], SETS[:1], n_cal=0), "n_cal"),
        (lambda: metrics.coverage_test([0], SETS[:1], 9, alternative="lower"), "alternative"),
        (lambda: metrics.coverage_test([0], SETS[:1, :, None], 9), "one alpha"),
        (lambda: metrics.brier([0], [[2.0, -1.0]]), "logits"),
        (lambda: metrics.nll([0], [0.5, 0.5]), "order is"),
        (lambda: metrics.debiased_ece([0, 1], [[0.9, 0.1], [0.6, 0.4]]), "one of the 2 rows"),
        (lambda: metrics.debiased_ece([0], [[0.9, 0.1]], level=1), "level"),
        (lambda: metrics.hsic([0], SETS[:1]), "at least 2"),
        (lambda: metrics.hsic([0] * 4, SETS, bandwidth=0), "bandwidth"),
        (lambda: metrics.hsic([0.0], [[-np.inf, np.inf]]), "width"),
        (lambda: metrics.ert([[0.0]] * 4, [0] * 4, SETS), "from 2 to the 4 rows"),
        (lambda: metrics.ert([[np.nan]] * 4, [0] * 4, SETS, n_splits=2), "NaN"),
    ],
)
def test_bad_input(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
