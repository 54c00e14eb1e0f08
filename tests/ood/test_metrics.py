"""Metrics against brute force and scikit-learn, ties included."""

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


def test_tensors_and_lists_are_welcome():
    assert metrics.auroc(torch.zeros(3), torch.ones(2)) == metrics.auroc([0, 0, 0], [1, 1]) == 1


@pytest.mark.parametrize("name", metrics.__all__)
def test_bad_input_is_refused(name):
    measure = getattr(metrics, name)
    with pytest.raises(ValueError, match="scores_out must be a non-empty vector"):
        measure([0.0], [])
    with pytest.raises(ValueError, match="scores_in must be a non-empty vector"):
        measure([[0.0]], [1.0])
    with pytest.raises(ValueError, match="scores_out has 1 NaN"):
        measure([0.0], [np.nan])


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="alpha must be in"):
        metrics.detection_rate_at_false_alarm([0.0], [1.0], alpha=0)
    with pytest.raises(ValueError, match="positive must be one of 'ood', 'id'"):
        metrics.aupr([0.0], [1.0], positive="in")
