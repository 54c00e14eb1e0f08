"""Signed differences, worst groups, and what is said in words."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from trustml import fairness
from trustml.fairness import group_metrics
from trustml.warnings import SmallGroupWarning

NAMES = ("selection_rate", "true_positive_rate", "false_positive_rate", "accuracy")


def sample(n=300, n_groups=3, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.integers(0, n_groups, n)
    y = (rng.random(n) < 0.5).astype(int)
    p = (rng.random(n) < 0.2 + 0.4 * y + 0.1 * s).astype(int)
    return y, p, np.array(["a", "b", "c", "d"])[s]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(0, 3))
def test_signed_differences_are_others_minus_privileged(seed, n_groups, privileged):
    y, p, s = sample(seed=seed, n_groups=n_groups)
    name = sorted(set(s))[privileged % n_groups]
    g = group_metrics(y, p, sensitive_features=s, privileged=name)
    signed = g.signed_difference()
    assert signed.shape == (n_groups - 1, 4)
    for other in set(s) - {name}:
        want = p[s == other].mean() - p[s == name].mean()
        assert signed["selection_rate"][other] == pytest.approx(want)
        assert signed[other]["selection_rate"] == signed["selection_rate"][other]
    # Signed ones span the unsigned one, whoever is privileged.
    spread = np.vstack([signed, np.zeros(4)])
    np.testing.assert_allclose(np.ptp(spread, axis=0), g.difference(), atol=1e-12)


def test_direction_names_the_sign():
    y, p, s = sample(n_groups=2)
    g = group_metrics(y, p, sensitive_features=s, privileged="b")
    assert g.signed_difference().direction == g.direction == "a minus b"
    low, high = g.ci()["selection_rate"]
    assert low < g.signed_difference()["selection_rate"][0] < high
    y, p, s = sample()
    signed = group_metrics(y, p, sensitive_features=s, privileged="b").signed_difference()
    assert signed.direction == "each group minus b"
    assert repr(signed).splitlines()[0] == "each group minus b"
    assert pickle.loads(pickle.dumps(signed)).direction == signed.direction
    assert (2 * signed).direction is None
    first = group_metrics(y, p, sensitive_features=s).signed_difference()
    assert first.direction == "each group minus a"


def test_a_group_without_the_metric_has_no_signed_difference():
    y, p, s = sample()
    y[s == "b"] = 0
    with pytest.warns(SmallGroupWarning, match="undefined in groups"):
        g = group_metrics(y, p, sensitive_features=s, privileged="a")
    assert np.isnan(g.signed_difference()["true_positive_rate"]["b"])
    assert np.isfinite(g.signed_difference()["true_positive_rate"]["c"])
    assert g.worst()["true_positive_rate"].group in {"a", "c"}
    with pytest.warns(SmallGroupWarning, match="undefined in groups"):
        g = group_metrics(0 * y, p, sensitive_features=s, metrics="true_positive_rate")
    assert g.worst()["true_positive_rate"].group is None
    assert np.isnan(g.worst()["true_positive_rate"].value)
    assert g.in_words()[-1] == "true positive rate undefined in every group"


def test_worst_reads_each_metric_in_its_own_direction():
    y, p, s = sample(n=600)  # c is selected most, and wrongly most
    score = np.where(s == "a", 0.9, 0.5)
    names = [*NAMES, "calibration_in_the_large", "base_rate"]
    g = group_metrics(y, p, sensitive_features=s, y_score=score, metrics=names)
    worst = g.worst()
    assert worst["selection_rate"].group == "a"
    assert worst["false_positive_rate"].group == "c"
    assert worst["calibration_in_the_large"].group == "a"
    apart = np.abs(g.by_group["base_rate"] - g.overall["base_rate"])
    assert worst["base_rate"].group == "abc"[int(np.argmax(apart))]
    readings = [worst[name].reading for name in NAMES]
    assert readings == ["lowest", "lowest", "highest", "lowest"]
    # Whose harm: a false positive is one where the decision is a burden alone.
    assert "burden" in worst["false_positive_rate"].harm
    assert "wrongly decided negative" in worst["true_positive_rate"].harm
    assert worst["accuracy"].harm == "is predicted worse"
    other = g.worst({"false_positive_rate": True})["false_positive_rate"]
    assert other.group != "c"
    assert other.harm == ""
    assert worst["selection_rate"].value == g.by_group["selection_rate"].min()
    assert worst["selection_rate"].overall == g.overall["selection_rate"]
    assert g.worst({"selection_rate": False})["selection_rate"].group == "c"
    assert list(worst) == names
    with pytest.raises(ValueError, match="higher_is_better names"):
        g.worst({"recall": True})


def test_worst_of_a_callable_is_the_farthest_unless_said():
    y, p, s = sample(n=600)
    g = group_metrics(y, p, sensitive_features=s, metrics=balanced_accuracy_score)
    column = np.asarray(g.by_group)[:, 0]
    name = "balanced_accuracy_score"
    assert g.worst()[name].reading == "farthest from overall"
    assert g.worst()[name].group == "abc"[int(np.argmax(np.abs(column - g.overall[0])))]
    assert g.worst({name: True})[name].group == "abc"[int(np.argmin(column))]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_parity_and_odds_are_printed_whatever_was_asked(seed):
    y, p, s = sample(seed=seed)
    parity = fairness.demographic_parity_difference(y, p, sensitive_features=s)
    odds = fairness.equalized_odds_difference(y, p, sensitive_features=s)
    for metrics in (None, "accuracy", "zero_one_loss"):
        printed = repr(group_metrics(y, p, sensitive_features=s, metrics=metrics))
        assert f"demographic parity difference {parity:.4g}: selection rate of" in printed
        assert f"equalized odds difference {odds:.4g}: " in printed


def test_words_say_which_group_is_below_which():
    y = np.tile([1, 1, 0, 0], 10)
    s = np.repeat(["m", "f"], 20)
    p = np.where(s == "m", y, 0)
    first, second, third = group_metrics(
        y, p, sensitive_features=s, metrics="false_positive_rate"
    ).in_words()
    assert first == (
        "demographic parity difference 0.5: selection rate of f (0) below m (0.5)"
    )  # fmt: skip
    assert second == (
        "equalized odds difference 1: true positive rate of f (0) below m (1)"
    )  # fmt: skip
    assert third == "false positive rate the same, 0"


def test_words_of_undefined_odds_and_of_numbers():
    y, p, s = sample(n_groups=2)
    y[s == "a"] = 0
    g = group_metrics(y, p, sensitive_features=s, metrics="accuracy")
    assert g.in_words()[1] == (
        "equalized odds difference undefined: fewer than two groups have a true positive rate"
    )
    numbers = group_metrics(y + 0.5, p + 0.25, sensitive_features=s)
    assert len(numbers.in_words()) == 3
    assert len(repr(numbers).splitlines()) == 1 + 1 + 2 + 3


def test_classes_are_said_one_against_the_rest():
    y, p, s = sample()
    third = np.random.default_rng(1).random(len(y)) < 0.3
    y, p = np.where(third, 2, y), np.where(third & (s != "a"), 2, p)
    words = group_metrics(y, p, sensitive_features=s).in_words()
    gaps = {
        c: fairness.demographic_parity_difference(y == c, p == c, sensitive_features=s)
        for c in range(3)
    }
    widest = max(gaps, key=gaps.get)
    assert words[0].startswith(
        f"demographic parity difference {gaps[widest]:.4g}: selection rate of class {widest} of"
    )
    odds = max(
        fairness.equalized_odds_difference(y == c, p == c, sensitive_features=s) for c in range(3)
    )
    assert words[1].startswith(f"equalized odds difference {odds:.4g}: ")


def test_of_many_groups_the_rows_one_looks_for_are_printed_first():
    y, s = np.tile([0, 1], 600), np.repeat(np.arange(40), 30)
    g = group_metrics(y, y, sensitive_features=s, metrics="accuracy")
    for line in ("overall ", "difference ", "ratio "):
        assert f"\n{line}" in repr(g)
    assert "33 more rows" in repr(g)
    assert len(g.to_frame()) == 40
    few = repr(group_metrics(y, y, sensitive_features=s % 7, metrics="accuracy"))
    assert few.index("\n6 ") < few.index("\noverall ") < few.index("\nratio ")
    assert "more rows" not in few
