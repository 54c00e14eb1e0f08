"""Intervals and tests of group gaps hold what they promise, over repetitions.

Each law fails by chance, though it holds, with probability below 1e-4: the bounds are the
binomial's at the edge of what is allowed.
"""

import numpy as np
import pytest
from scipy.stats import binom, norm

from trustml.fairness import fairness_verdict, gap_test, group_metrics, minimum_detectable_gap
from trustml.fairness._confidence import Sample, contrast_interval
from trustml.fairness._gap_bounds import _apart, _limits, gaps, levels
from trustml.fairness._limits import area_limits, mean_limits
from trustml.fairness._of_rows import OfRows
from trustml.fairness._row_metrics import SCORE_METRICS

CHANCE = 5e-5  # of each end


def between(hits, repetitions, low, high):
    """Whether a share within [low, high] may have given these hits."""
    return binom.ppf(CHANCE, repetitions, low) <= hits <= binom.isf(CHANCE, repetitions, high)


def draw(rng, n, shares, rates):
    s = rng.choice(len(shares), n, p=shares)
    y = (rng.random(n) < 0.5).astype(int)
    return y, (rng.random(n) < np.asarray(rates)[s]).astype(int), s


def interval(rng, n, shares, rates):
    """The interval behind ``ci()`` of selection rates, without the checks of the input."""
    _, p, s = draw(rng, n, shares, rates)
    rows = Sample(s, len(shares), {"rate": (p == 1, np.full(n, True))}, {})
    return contrast_interval(rows, "rate", "difference", 0, 0.95, None)


@pytest.mark.parametrize(
    ("n", "shares", "rate"),
    [(500, [0.5, 0.5], 0.3), (800, [0.8, 0.2], 0.5), (800, [0.4, 0.3, 0.2, 0.1], 0.3)],
)
def test_intervals_under_no_disparity_contain_0_as_often_as_they_say(n, shares, rate):
    rng, repetitions, hits = np.random.default_rng(len(shares) * n), 2500, 0
    for _ in range(repetitions):
        low, high = interval(rng, n, shares, [rate] * len(shares))
        hits += low <= 0 <= high
    assert between(hits, repetitions, 0.93, 0.97), hits / repetitions


def test_simultaneous_bands_contain_the_true_gap():
    rng, rates, repetitions = np.random.default_rng(0), [0.2, 0.3, 0.35, 0.5], 1500
    hits = 0
    for _ in range(repetitions):
        low, high = interval(rng, 800, [0.25] * 4, rates)
        hits += low <= 0.3 <= high
    assert between(hits, repetitions, 0.94, 1.0), hits / repetitions


def test_permutation_p_values_are_valid_and_holm_bounds_the_family():
    rng, repetitions, alpha = np.random.default_rng(1), 800, 0.1
    gaps = families = 0
    for _ in range(repetitions):
        y, p, s = draw(rng, 120, [0.4, 0.3, 0.3], [0.2] * 3)
        s[:60] = np.repeat([0, 1, 2], 20)  # none below the size that is warned of
        g = group_metrics(y, p, sensitive_features=s, metrics=["selection_rate"])
        found = gap_test(g, 99, random_state=rng)
        gaps += found.p_values[0] <= alpha
        families += found.group_p_values.min() <= alpha
    assert between(gaps, repetitions, 0.0, alpha), gaps / repetitions
    assert between(families, repetitions, 0.0, alpha), families / repetitions
    assert gaps > 0.5 * alpha * repetitions  # valid, and not for never rejecting


def test_the_minimum_detectable_gap_is_detected_with_its_power():
    rng, repetitions = np.random.default_rng(2), 1500
    y, p, s = draw(rng, 1000, [0.7, 0.3], [0.4, 0.4])
    planned = group_metrics(y, p, sensitive_features=s, metrics="selection_rate")
    gap = minimum_detectable_gap(planned, power=0.8)[0]
    pooled, hits = planned.overall[0], 0
    rates = [pooled - 0.3 * gap, pooled + 0.7 * gap]
    for _ in range(repetitions):
        low, _ = interval(rng, 1000, [0.7, 0.3], rates)
        hits += low > 0
    assert between(hits, repetitions, 0.77, 0.83), hits / repetitions


def verdicts(rng, shares, rates, n, bound, alpha):
    """What is decided of several rates (metric, group) whose largest gap is given."""
    s = rng.choice(len(shares), n, p=shares)
    part, rows = rng.integers(0, len(rates), n), Sample(s, len(shares), {}, {})
    for j, of_group in enumerate(np.asarray(rates)):
        # Every metric counts rows of its own, as true and false positive rates do.
        counts = part == j
        rows.rates[str(j)] = (rng.random(n) < of_group[s]) & counts, counts
    found = [g for m in rows.rates for g in gaps(rows, m, alpha, family=len(rates))]
    return max(g.high for g in found) <= bound, max(g.low for g in found) > bound


@pytest.mark.parametrize(
    ("shares", "rates", "n"),
    [
        ([0.5, 0.5], [[0.3, 0.4]], 1200),
        ([0.9, 0.1], [[0.05, 0.15]], 1500),
        ([0.4, 0.3, 0.2, 0.1], [[0.3, 0.3, 0.3, 0.4]], 3000),
        ([0.3, 0.3, 0.4], [[0.8, 0.8, 0.9], [0.2, 0.2, 0.2]], 3000),
        ([0.3, 0.3, 0.4], [[0.8, 0.8, 0.9], [0.1, 0.2, 0.2]], 3000),
    ],
)
def test_neither_pass_nor_fail_is_said_wrongly_more_often_than_alpha(shares, rates, n):
    """The true gap is the bound: the worst case of both errors."""
    rng, repetitions, alpha, bound = np.random.default_rng(n), 1200, 0.1, 0.1
    passed, failed = np.sum(
        [verdicts(rng, shares, rates, n, bound, alpha) for _ in range(repetitions)], axis=0
    )
    # By enumeration an end errs in at most 5.4 % at a nominal 5 %; hence the slack.
    assert between(passed, repetitions, 0.0, 1.05 * alpha), passed / repetitions
    assert between(failed, repetitions, 0.0, 1.05 * alpha), failed / repetitions


@pytest.mark.parametrize(("n", "m"), [(20, 20), (25, 120), (100, 100), (40, 400)])
def test_errors_of_two_groups_by_enumeration(n, m):
    """Every outcome of two groups, weighted by its probability: no simulation error."""
    alpha, worst = 0.05, np.zeros(2)
    ends = np.empty((n + 1, m + 1, 2))
    first, other = [[_limits(k, size, 1 - 2 * alpha) for k in range(size + 1)] for size in (n, m)]
    for x in range(n + 1):
        for y in range(m + 1):
            ends[x, y] = _apart(first[x], other[y])
    high = np.maximum(ends[..., 1], -ends[..., 0])
    for bound in (0.05, 0.1, 0.2):
        for p in np.arange(0, 1 - bound + 1e-9, 0.05):
            weight = np.outer(
                binom.pmf(np.arange(n + 1), n, p), binom.pmf(np.arange(m + 1), m, p + bound)
            )
            worst = np.maximum(
                worst, [weight[high <= bound].sum(), weight[-ends[..., 1] > bound].sum()]
            )
    assert (worst <= 1.1 * alpha).all(), worst
    assert worst.max() > 0.5 * alpha  # not for never deciding


def test_the_worst_group_is_judged_over_all_groups():
    rng, repetitions, alpha, bound = np.random.default_rng(7), 1200, 0.1, 0.2
    wrong = np.zeros(2)
    for _ in range(repetitions):
        s = rng.choice(4, 800)
        rows = Sample(s, 4, {"error": (rng.random(800) < bound, np.full(800, True))}, {})
        found = levels(rows, "error", alpha)
        # In all groups the rate is the bound: passing needs all of them, failing one.
        wrong += max(g.high for g in found) <= bound, max(g.low for g in found) > bound
    assert between(wrong[0], repetitions, 0.0, alpha)
    assert between(wrong[1], repetitions, 0.0, alpha)
    assert wrong[1] > 0.2 * alpha * repetitions


def score_interval(rng, name, n=210):
    """Interval of the gap of a score metric between two groups that do not differ."""
    s, y = rng.permutation(np.repeat([0, 1], [n // 3, n - n // 3])), rng.random(n) < 0.4
    score = 1 / (1 + np.exp(-1.5 * y - rng.normal(size=n)))
    metric = OfRows(name, SCORE_METRICS[name], (y, score))
    return contrast_interval(Sample(s, 2, {}, {name: metric}), name, "difference", 0, 0.95, rng)


@pytest.mark.parametrize("name", ["mean_score", "brier_score", "roc_auc", "log_loss"])
def test_intervals_of_scores_contain_0_about_as_often_as_they_say(name):
    rng, repetitions, hits = np.random.default_rng(len(name)), 600, 0
    for _ in range(repetitions):
        low, high = score_interval(rng, name)
        hits += low <= 0 <= high
    # Nominal 95 %, on the safe side with 70 rows: 96-99 %; with 500, 96-97 %.
    assert between(hits, repetitions, 0.95, 1.0), hits / repetitions


@pytest.mark.parametrize(("n", "m"), [(15, 15), (6, 30)])
def test_intervals_of_areas_hold_near_1(n, m):
    """The bootstrap's covered in 91 %, and were empty where the scores separate."""
    rng, repetitions, hits, area = np.random.default_rng(n), 1000, 0, 0.95
    shift = norm.ppf(area) * 2**0.5
    for _ in range(repetitions):
        found = area_limits(rng.normal(size=n), shift + rng.normal(size=m), 0.95)
        hits += found.low <= area <= found.high
        assert found.low < found.high - 0.01
    assert between(hits, repetitions, 0.95, 1.0), hits / repetitions


@pytest.mark.parametrize(("n", "rare"), [(20, 0.05), (60, 0.02), (150, 0.02)])
def test_means_of_bounded_rows_reckon_with_what_was_not_seen(n, rare):
    """Few rows of losses, mostly alike, some of the largest: the bootstrap's worst case."""
    rng, repetitions, misses = np.random.default_rng(n), 1500, 0
    true = (1 - rare) * 0.05 + rare
    for _ in range(repetitions):
        losses = np.where(rng.random(n) < rare, 1.0, 0.1 * rng.random(n))
        misses += mean_limits(losses, (0.0, 1.0), 0.9).high < true
    assert between(misses, repetitions, 0.0, 0.05), misses / repetitions


def test_loss_parity_is_not_passed_on_losses_that_were_not_seen():
    """A true gap of 0.18; an interval of resamples let 24 % pass a bound of 0.1."""
    repetitions, passed, alpha = 200, 0, 0.05
    decided, s = np.ones(330, dtype=int), np.repeat(["a", "b"], [30, 300])
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        surely = np.where(rng.random(330) < 0.04 * (s == "a"), 0.01, 0.95)
        passed += fairness_verdict(
            decided, decided, sensitive_features=s, y_score=surely, criterion="loss_parity",
            bound=0.1, alpha=alpha,
        ).passed  # fmt: skip
    assert between(passed, repetitions, 0.0, alpha), passed / repetitions
