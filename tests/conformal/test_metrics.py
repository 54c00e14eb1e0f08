"""Measures against hand-made cases and definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from trustml.conformal import metrics
from trustml.conformal._slab import _search
from trustml.evidence import clopper_pearson, ks_test

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
    ],
)
def test_bad_input(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
