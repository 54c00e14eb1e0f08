"""Prediction sets and intervals by group: parity with the conformal room, intervals, bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trustml.conformal.metrics import coverage, interval_width, set_size
from trustml.fairness import prediction_set_metrics
from trustml.warnings import SmallGroupWarning

WORDS = np.array(["cat", "dog", "eel"])


def sample(n=300, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, n), rng.random((n, 3)) < 0.7, rng.integers(0, 2, n)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_sets_are_measured_as_by_conformal_metrics(seed):
    y, sets, s = sample(seed=seed)
    g = prediction_set_metrics(y, sets, sensitive_features=s)
    assert g.metrics == ("coverage", "set_size", "empty", "singleton")
    for code in (0, 1):
        of = s == code
        assert g.by_group["coverage"][code] == pytest.approx(coverage(y[of], sets[of]))
        assert g.by_group["set_size"][code] == pytest.approx(set_size(sets[of]))
        assert g.by_group["empty"][code] == (~sets[of]).all(1).mean()
    assert g.overall["singleton"] == (sets.sum(1) == 1).mean()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_intervals_are_measured_as_by_conformal_metrics(seed):
    rng = np.random.default_rng(seed)
    y, s = rng.normal(size=200), rng.integers(0, 2, 200)
    ends = np.sort(rng.normal(size=(200, 2)), axis=1)
    g = prediction_set_metrics(y, ends, sensitive_features=s)
    assert g.metrics == ("coverage", "interval_width", "unbounded")
    for code in (0, 1):
        of = s == code
        assert g.by_group["coverage"][code] == pytest.approx(coverage(y[of], ends[of]))
        assert g.by_group["interval_width"][code] == pytest.approx(interval_width(ends[of]))


def test_everything_of_group_metrics_is_there():
    y, sets, s = sample()
    sets[s == 1] &= np.random.default_rng(1).random((int((s == 1).sum()), 3)) < 0.6
    words = np.array(["f", "m"])[s]
    g = prediction_set_metrics(y, sets, sensitive_features=words, privileged="m", random_state=0)
    hits, n = int(sets[s == 0, y[s == 0]].sum()), int((s == 0).sum())
    exact = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(g.ci(of="by_group")[0, 0], [exact.low, exact.high])
    low, high = g.ci()["set_size"]
    assert 0 < low < g.signed_difference()["set_size"]["f"] < high
    assert g.worst()["coverage"].group == "m"
    assert g.worst()["singleton"].reading == "lowest"
    assert g.worst()["singleton"].value == np.min(g.by_group["singleton"])
    assert g.worst()["empty"].reading == "highest"
    same = prediction_set_metrics(y, np.ones((len(y), 3), bool), sensitive_features=words)
    assert same.worst()["empty"].group is None  # none differs
    assert same.worst()["empty"].value == 0
    assert g.worst()["set_size"].group == "f"
    assert len(repr(g).splitlines()) == 1 + 1 + 2 + 3


def test_labels_of_classes_and_kinds_of_arrays():
    pd = pytest.importorskip("pandas")
    y, sets, s = sample()
    want = np.asarray(prediction_set_metrics(y, sets, sensitive_features=s).by_group)
    named = prediction_set_metrics(WORDS[y], sets, sensitive_features=s, classes=WORDS)
    np.testing.assert_array_equal(named.by_group, want)
    tensors = prediction_set_metrics(
        torch.tensor(y), torch.tensor(sets), sensitive_features=torch.tensor(s)
    )
    np.testing.assert_array_equal(tensors.by_group, want)
    frames = prediction_set_metrics(
        pd.Series(y), pd.DataFrame(sets), sensitive_features=pd.DataFrame({"s": s})
    )
    np.testing.assert_array_equal(frames.by_group, want)


def test_unbounded_intervals_are_counted_and_left_out_of_the_width():
    y, s = np.zeros(60), np.repeat([0, 1], 30)
    ends = np.tile([-1.0, 1.0], (60, 1))
    ends[:3], ends[3] = [-np.inf, np.inf], [-1.0, np.inf]
    g = prediction_set_metrics(y, ends, sensitive_features=s, random_state=0)
    assert g.overall["coverage"] == 1
    np.testing.assert_array_equal(g.by_group["interval_width"], [2, 2])
    np.testing.assert_allclose(g.by_group["unbounded"], [4 / 30, 0])
    assert g.worst()["unbounded"].group == 0
    assert np.isfinite(g.ci()).all()
    ends[:30, 1] = np.inf
    with pytest.warns(SmallGroupWarning, match="undefined in groups"):
        g = prediction_set_metrics(y, ends, sensitive_features=s)
    assert np.isnan(g.by_group["interval_width"][0])


Y, SETS, S = sample(60)
ENDS = np.tile([0.0, 1.0], (60, 1))
BAD = {
    "flat": ((Y, SETS[:, 0]), {}, r"sets must have shape \(n, c\)"),
    "three ends": ((Y, np.ones((60, 3))), {}, "intervals of numbers"),
    "turned": ((Y, ENDS[:, ::-1]), {}, "interval of row 0 ends below"),
    "nan": ((Y, ENDS * np.nan), {}, "NaN"),
    "words": ((WORDS[Y], ENDS), {}, "need numbers as y_true"),
    "unknown": ((Y + 1, SETS), {}, r"labels \[3\], which are not among"),
    "classes": ((Y, SETS), {"classes": [0, 1]}, "2 labels for 3 columns"),
    "short": ((Y[1:], SETS), {}, "same length"),
    "privileged": ((Y, SETS), {"privileged": "x"}, "privileged must be one of"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_fix(case):
    arguments, kwargs, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        prediction_set_metrics(*arguments, sensitive_features=S, **kwargs)


def test_zeros_and_ones_are_not_guessed_to_be_intervals():
    y, s = np.tile([0, 1], 40), np.repeat(["f", "m"], 40)
    ints = np.tile([[0, 1], [1, 1]], (40, 1))
    with pytest.raises(ValueError, match=r"sets\.astype\(bool\)"):
        prediction_set_metrics(y, ints, sensitive_features=s)
    sets = prediction_set_metrics(y, ints.astype(bool), sensitive_features=s)
    assert sets.overall["coverage"] == 0.5
    intervals = prediction_set_metrics(y, ints.astype(float), sensitive_features=s)
    assert intervals.overall["coverage"] == 1.0
    objects = prediction_set_metrics(y, ints.astype(bool).astype(object), sensitive_features=s)
    np.testing.assert_array_equal(objects.overall, sets.overall)


@pytest.mark.parametrize("sets", [[["a"], ["a", "b"]] * 40, [["a", "b"], ["b", "a"]] * 40])
def test_lists_of_labels_are_refused(sets):
    with pytest.raises(ValueError, match=r"pass a bool array \(n, c\)"):
        prediction_set_metrics(["a", "b"] * 40, sets, sensitive_features=["f", "m"] * 40)
