"""Differential fairness: definition, intersections, parity with AIF360."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.fairness import differential_fairness
from trustml.warnings import SmallGroupWarning


def sample(n=300, seed=0, classes=2):
    rng = np.random.default_rng(seed)
    s, t = rng.integers(0, 3, n), rng.integers(0, 2, n)
    y = np.minimum((rng.random(n) * classes + 0.2 * s).astype(int), classes - 1)
    return y, s, t


def naive(y, s, concentration):
    outcomes, groups = sorted(set(y)), sorted(set(s))
    rate = {
        (o, g): (sum((y == o) & (s == g)) + concentration / len(outcomes))
        / (sum(s == g) + concentration)
        for o in outcomes
        for g in groups
    }
    return max(
        abs(math.log(rate[o, a] / rate[o, b]))
        for o in outcomes
        for a, b in itertools.permutations(groups, 2)
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.sampled_from([0.5, 1.0, 10.0]))
def test_epsilon_is_the_largest_log_ratio(seed, classes, concentration):
    y, s, _ = sample(n=120, seed=seed, classes=classes)
    ours = differential_fairness(y, sensitive_features=s, concentration=concentration)
    assert float(ours) == ours.value == pytest.approx(naive(y, s, concentration), abs=1e-12)
    order = np.random.default_rng(seed).permutation(120)
    again = differential_fairness(
        y[order], sensitive_features=s[order], concentration=concentration
    )
    assert again.value == pytest.approx(ours.value)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_what_holds_for_intersections_holds_for_each_column(seed):
    y, s, t = sample(n=600, seed=seed)
    both = differential_fairness(y, sensitive_features={"s": s, "t": t}, concentration=0).value
    for column in (s, t):
        assert differential_fairness(y, sensitive_features=column, concentration=0).value <= both


@pytest.mark.peers
def test_epsilon_is_aif360s():
    aif360 = pytest.importorskip("aif360.sklearn.metrics")
    pd = pytest.importorskip("pandas")
    y, s, t = sample()
    index = pd.MultiIndex.from_arrays([s, t], names=["s", "t"])
    for concentration in (0.5, 1.0, 4.0):
        theirs = aif360.smoothed_edf(pd.Series(y, index=index), concentration=concentration)
        ours = differential_fairness(
            y, sensitive_features=np.column_stack([s, t]), concentration=concentration
        )
        assert ours.value == pytest.approx(theirs)


def test_words_name_the_outcome_and_both_groups():
    y = np.array(["no"] * 30 + ["yes"] * 10 + ["no"] * 20 + ["yes"] * 20)
    found = differential_fairness(y, sensitive_features=["f"] * 40 + ["m"] * 40, concentration=0)
    assert found.value == pytest.approx(math.log(2))
    assert found.words == "outcome yes is 2 times as likely in m (0.5) as in f (0.25)"
    assert repr(found).startswith("differential fairness 0.6931: outcome yes")
    assert list(found.to_frame()["P(yes)"]) == [0.25, 0.5]
    same = differential_fairness(y[:40], sensitive_features=[0, 1] * 20, concentration=0)
    assert (same.value, same.words) == (0, "every outcome is as likely in all groups")


def test_an_outcome_that_never_occurs_is_infinite_unless_smoothed():
    y, s = [1] * 25 + [0, 1] * 15, [0] * 25 + [1] * 30
    found = differential_fairness(y, sensitive_features=s, concentration=0)
    assert found.value == np.inf
    assert "infinitely" in found.words
    smoothed = differential_fairness(torch.tensor(y), sensitive_features=torch.tensor(s))
    assert smoothed.value == pytest.approx(naive(np.array(y), np.array(s), 1.0))


def test_bad_input_names_the_fix():
    y, s, _ = sample()
    with pytest.raises(ValueError, match="one outcome only"):
        differential_fairness(0 * y, sensitive_features=s)
    with pytest.raises(ValueError, match="concentration must be"):
        differential_fairness(y, sensitive_features=s, concentration=-1)
    with pytest.raises(ValueError, match="pass decisions"):
        differential_fairness(y + 0.5, sensitive_features=s)
    with pytest.raises(ValueError, match="one row for each"):
        differential_fairness(y[1:], sensitive_features=s)
    with pytest.raises(TypeError):
        differential_fairness(y, s)
    with pytest.warns(SmallGroupWarning, match="fewer than 20 rows"):
        differential_fairness(y[:12], sensitive_features=s[:12])
