"""Metrics against brute force and scikit-learn, ties included."""

from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from trustml.ood import metrics

samples = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=40)
few = settings(max_examples=50, deadline=None)


def labelled(inside, outside):
    return np.r_[np.zeros(len(inside)), np.ones(len(outside))], np.r_[inside, outside]


def brute_force(inside, outside, rule):
    """Best rate over every threshold that makes a difference: alarm when score >= t."""
    thresholds = [*np.unique([*inside, *outside]), np.inf]
    return rule(
        [(np.mean(np.array(inside) >= t), np.mean(np.array(outside) >= t)) for t in thresholds]
    )


@few
@given(samples, samples)
def test_auroc_is_sklearns(inside, outside):
    labels, scores = labelled(inside, outside)
    assert metrics.auroc(inside, outside) == pytest.approx(roc_auc_score(labels, scores))


@few
@given(samples, samples)
def test_aupr_is_sklearns_average_precision(inside, outside):
    labels, scores = labelled(inside, outside)
    assert metrics.aupr(inside, outside) == pytest.approx(average_precision_score(labels, scores))
    of_id = metrics.aupr(inside, outside, positive="id")
    assert of_id == pytest.approx(average_precision_score(1 - labels, -scores))


@few
@given(samples, samples)
def test_fpr_at_95_tpr_ood_is_the_best_threshold(inside, outside):
    def rule(rates):
        return min(false for false, true in rates if true >= 0.95 - 1e-12)

    expected = brute_force(inside, outside, rule)
    assert metrics.fpr_at_95_tpr_ood(inside, outside) == pytest.approx(expected)


@few
@given(samples, samples)
def test_fpr_at_95_tpr_id_is_the_best_threshold(inside, outside):
    def rule(rates):
        return min(1 - found for false, found in rates if 1 - false >= 0.95 - 1e-12)

    expected = brute_force(inside, outside, rule)
    assert metrics.fpr_at_95_tpr_id(inside, outside) == pytest.approx(expected)


@few
@given(samples, samples, st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.7]))
def test_detection_rate_is_the_best_threshold(inside, outside, alpha):
    def rule(rates):
        return max(found for false, found in rates if false <= alpha + 1e-12)

    expected = brute_force(inside, outside, rule)
    found = metrics.detection_rate_at_false_alarm(inside, outside, alpha)
    assert found == pytest.approx(expected)


@few
@given(samples, samples)
def test_swapping_the_samples_mirrors_the_auroc(inside, outside):
    total = metrics.auroc(inside, outside) + metrics.auroc(outside, inside)
    assert total == pytest.approx(1)


def test_the_two_fprs_are_different_numbers():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0, 1, 20_000), rng.normal(2, 3, 20_000)
    assert metrics.fpr_at_95_tpr_id(inside, outside) == pytest.approx(0.449, abs=0.01)
    assert metrics.fpr_at_95_tpr_ood(inside, outside) == pytest.approx(0.998, abs=0.002)


def test_constant_scores_are_worthless_not_perfect():
    same = np.zeros(50)
    assert metrics.auroc(same, same) == 0.5
    assert metrics.fpr_at_95_tpr_ood(same, same) == 1
    assert metrics.fpr_at_95_tpr_id(same, same) == 1
    assert metrics.detection_rate_at_false_alarm(same, same) == 0


def test_exact_ranks_at_round_shares():
    inside = np.arange(20.0)  # 95 % of 20 is 19: one may be lost
    assert metrics.fpr_at_95_tpr_id(inside, [18.5, 19.5]) == 0
    assert metrics.fpr_at_95_tpr_id(inside, [18.0, 19.5]) == 0.5
    assert metrics.detection_rate_at_false_alarm(np.arange(10.0), [8.5], alpha=0.1) == 1


@few
@given(samples, samples, st.data())
def test_oscr_is_the_area_under_its_curve(inside, outside, data):
    correct = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(inside), max_size=len(inside)))
    )
    # Accept below each threshold; straight lines between thresholds are what ties are worth.
    thresholds = [*np.unique([*inside, *outside]), np.inf]
    accepted = np.array([np.mean(np.array(outside) < t) for t in thresholds])
    right = np.array([np.mean((np.array(inside) < t) & correct) for t in thresholds])
    expected = np.sum(np.diff(accepted) * (right[1:] + right[:-1]) / 2)
    found = metrics.oscr(inside, outside, correct)
    assert found == pytest.approx(expected, abs=1e-12)
    assert found <= min(correct.mean(), metrics.auroc(inside, outside)) + 1e-12


@few
@given(samples, st.integers(0, 2**32))
def test_aurc_is_the_mean_over_every_order_of_ties(scores, seed):
    rng = np.random.default_rng(seed)
    scores = np.array(scores[:6])
    losses = rng.integers(0, 3, len(scores)).astype(float)
    areas = [
        np.mean(np.cumsum(losses[list(order)]) / np.arange(1, len(order) + 1))
        for order in permutations(range(len(scores)))
        if (np.diff(scores[list(order)]) >= 0).all()
    ]
    assert metrics.aurc(scores, losses) == pytest.approx(np.mean(areas))
    shuffled = rng.permutation(len(scores))
    assert metrics.aurc(scores[shuffled], losses[shuffled]) == pytest.approx(np.mean(areas))
    assert metrics.aurc(losses, losses, excess=True) == pytest.approx(0)
    assert metrics.aurc(scores, losses, excess=True) >= -1e-12


def test_a_constant_score_leaves_the_risk_as_it_is():
    losses = np.array([0.0, 1.0, 1.0, 0.0])
    assert metrics.aurc(np.zeros(4), losses) == 0.5


def oodeels_fpr_at_95_tpr(inside, outside, step=1):
    """Return what oodeel 0.4 reports: the last threshold that is still below the rate."""
    found = np.inf
    for t in np.unique([*inside, *outside])[::step]:  # alarms above t, ever fewer
        if np.mean(np.array(outside) > t) < 0.95:
            found = np.mean(np.array(inside) > t)
            break
    return found


def test_oodeels_fpr95_is_too_good_with_ties_and_ours_is_not():
    # A threshold that detects fewer than 95 % of the OOD rows is not one at 95 %.
    same = np.zeros(50)
    assert oodeels_fpr_at_95_tpr(same, same) == 0.0
    assert metrics.fpr_at_95_tpr_ood(same, same) == 1.0
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 5, 2000), rng.integers(1, 6, 2000)
    false, true = zip(
        *[(np.mean(inside >= t), np.mean(outside >= t)) for t in range(6)], strict=True
    )
    best = min(f for f, t in zip(false, true, strict=True) if t >= 0.95)
    assert metrics.fpr_at_95_tpr_ood(inside, outside) == best
    assert oodeels_fpr_at_95_tpr(inside, outside) < best - 0.1


def test_large_samples_are_sorted_not_compared():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=200_000), rng.normal(1, 1, 200_000)
    truth = 0.7602499389065233  # Phi(1 / sqrt 2)
    assert metrics.auroc(inside, outside) == pytest.approx(truth, abs=0.005)
    assert metrics.oscr(inside, outside, np.ones(200_000, bool)) == metrics.auroc(inside, outside)
    assert metrics.auroc_interval(inside, outside, method="delong").contains(truth)
    assert metrics.aurc(inside, inside > 1.0) < 0.05


@pytest.mark.parametrize("measure", [metrics.auroc, metrics.fpr_at_95_tpr_id])
def test_bootstrap_intervals_cover_and_are_reproducible(measure):
    rng = np.random.default_rng(0)
    big = measure(rng.normal(size=100_000), rng.normal(2, 1, 100_000))
    found = [
        metrics.interval(
            measure, rng.normal(size=120), rng.normal(2, 1, 80), level=0.9, n_resamples=99,
            method="percentile", random_state=i,
        )
        for i in range(60)
    ]  # fmt: skip
    assert np.mean([i.contains(big) for i in found]) >= 0.75  # 0.9 less 3.9 standard errors
    args = measure, rng.normal(size=30), rng.normal(1, 1, 30)
    assert metrics.interval(*args) == metrics.interval(*args)


def test_the_bootstrap_draws_correctness_with_its_row():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=60), rng.normal(2, 1, 60)
    correct = inside < 1  # exactly the accepted rows are right
    found = metrics.interval(metrics.oscr, inside, outside, correct=correct, n_resamples=200)
    assert found.estimate == metrics.oscr(inside, outside, correct)
    assert found.low < found.estimate < found.high <= 1


def test_tensors_and_lists_are_welcome():
    assert metrics.auroc(torch.zeros(3), torch.ones(2)) == metrics.auroc([0, 0, 0], [1, 1]) == 1


MEASURES = [
    metrics.auroc, metrics.aupr, metrics.fpr_at_95_tpr_id, metrics.fpr_at_95_tpr_ood,
    metrics.detection_rate_at_false_alarm, partial(metrics.oscr, correct=[True]),
    partial(metrics.interval, metrics.auroc),
]  # fmt: skip


@pytest.mark.parametrize("measure", MEASURES)
def test_bad_input_is_refused(measure):
    with pytest.raises(ValueError, match="scores_out must be a non-empty vector"):
        measure([0.0], [])
    with pytest.raises(ValueError, match="scores_in must be a non-empty vector"):
        measure([[0.0]], [1.0])
    with pytest.raises(ValueError, match="scores_out has 1 NaN"):
        measure([0.0], [np.nan])


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="alpha must be in"):
        metrics.detection_rate_at_false_alarm([0.0], [1.0], alpha=0)
    with pytest.raises(ValueError, match="correct must say of each of the 1"):
        metrics.oscr([0.0], [1.0], [True, False])
    with pytest.raises(ValueError, match="correct must say"):
        metrics.oscr([0.0], [1.0], [0.7])
    with pytest.raises(ValueError, match="one loss a score, got 1 scores and 2 losses"):
        metrics.aurc([0.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="losses has 1 NaN"):
        metrics.aurc([0.0], [np.nan])
    with pytest.raises(ValueError, match="positive must be one of 'ood', 'id'"):
        metrics.aupr([0.0], [1.0], positive="in")
