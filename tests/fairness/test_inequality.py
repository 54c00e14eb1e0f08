"""Entropy of benefits: definitions, limits, decomposition, and where AIF360 is wrong."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml import fairness
from trustml.warnings import SmallGroupWarning

ALPHAS = [-1.0, 0, 0.5, 1, 2, 3.5]


def sample(n=60, seed=0, false_negatives=True):
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 2, n), rng.integers(0, 2, n)
    y[:2], p[:2] = 0, [0, 1]
    s = rng.integers(0, 3, n)
    s[:3] = [0, 1, 2]
    return (y if false_negatives else np.minimum(y, p)), p, s


def naive(b, alpha):
    b = [float(value) for value in b]
    mu = sum(b) / len(b)
    if alpha == 1:
        return sum(v / mu * math.log(v / mu) if v else 0.0 for v in b) / len(b)
    if alpha == 0:
        return -sum(math.log(v / mu) for v in b) / len(b)
    return sum((v / mu) ** alpha - 1 for v in b) / (len(b) * alpha * (alpha - 1))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(ALPHAS))
def test_the_index_is_its_definition(seed, alpha):
    y, p, _ = sample(seed=seed, false_negatives=alpha > 0)
    ours = fairness.generalized_entropy_index(y, p, alpha)
    assert ours == pytest.approx(naive(1 + p - y, alpha))
    order = np.random.default_rng(seed).permutation(len(y))
    assert fairness.generalized_entropy_index(y[order], p[order], alpha) == pytest.approx(ours)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(ALPHAS), st.booleans())
def test_within_and_between_add_up_to_the_whole(seed, alpha, against_all):
    y, p, s = sample(seed=seed, false_negatives=alpha > 0)
    kwargs = {"sensitive_features": s, "alpha": alpha}
    if against_all:
        kwargs["privileged"] = 1
    between = fairness.between_group_generalized_entropy_index(y, p, **kwargs)
    within = fairness.within_group_generalized_entropy_index(y, p, **kwargs)
    whole = fairness.generalized_entropy_index(y, p, alpha)
    assert between + within == pytest.approx(whole, abs=1e-12)
    assert min(between, within) >= 0


def test_within_is_the_weighted_sum_of_the_groups_own_indices():
    y, p, s = sample(n=90)
    b = 1 + p - y
    for alpha in (0.5, 1, 2):
        want = sum(
            (s == g).mean() * (b[s == g].mean() / b.mean()) ** alpha * naive(b[s == g], alpha)
            for g in range(3)
        )
        ours = fairness.within_group_generalized_entropy_index(
            y, p, sensitive_features=s, alpha=alpha
        )
        assert ours == pytest.approx(want)


@pytest.mark.parametrize("at", [0, 1])
def test_special_values_are_limits(at):
    y, p, _ = sample(false_negatives=False)
    near = [fairness.generalized_entropy_index(y, p, at + h) for h in (-1e-4, 1e-4)]
    assert fairness.generalized_entropy_index(y, p, at) == pytest.approx(np.mean(near), rel=1e-6)


def test_theil_and_variation_are_special_cases():
    y, p, _ = sample()
    b = 1 + p - y
    assert fairness.theil_index(y, p) == fairness.generalized_entropy_index(y, p, 1)
    assert fairness.coefficient_of_variation(y, p) == pytest.approx(b.std() / b.mean())


@pytest.mark.peers
def test_aif360_agrees_except_at_zero_where_it_divides_by_the_mean_once_too_often():
    aif360 = pytest.importorskip("aif360.sklearn.metrics")
    y, p, _ = sample(false_negatives=False)
    for alpha in (0.5, 1, 2):
        theirs = aif360.generalized_entropy_error(y, p, alpha=alpha)
        assert fairness.generalized_entropy_index(y, p, alpha) == pytest.approx(theirs)
    mean = (1 + p - y).mean()
    ours, theirs = (
        fairness.generalized_entropy_index(y, p, 0),
        aif360.generalized_entropy_error(y, p, alpha=0),
    )
    assert mean > 1.1
    assert ours == pytest.approx(naive(1 + p - y, 0))
    assert theirs == pytest.approx(ours / mean)


@pytest.mark.peers
@pytest.mark.parametrize("privileged", [None, 1])
def test_between_groups_is_aif360s(privileged):
    aif360 = pytest.importorskip("aif360.sklearn.metrics")
    pd = pytest.importorskip("pandas")
    y, p, s = sample()
    series = pd.Series(y, index=pd.Index(s, name="s"))
    if privileged is None:
        theirs = aif360.between_group_generalized_entropy_error(series, p, prot_attr="s")
    else:  # with a privileged group AIF360 compares a list with a number: no row is of any group
        two = pd.Series(y, index=pd.Index((s == privileged).astype(int), name="s"))
        theirs = aif360.between_group_generalized_entropy_error(two, p, prot_attr="s")
    ours = fairness.between_group_generalized_entropy_index(
        y, p, sensitive_features=s, privileged=privileged
    )
    assert ours == pytest.approx(theirs)


def test_a_merit_without_favour_is_infinitely_bad_at_alpha_zero():
    y, p = [1, 0, 0, 1], [0, 0, 1, 1]
    assert fairness.generalized_entropy_index(y, p, 0) == np.inf
    assert fairness.generalized_entropy_index(y, p, -1) == np.inf
    assert fairness.within_group_generalized_entropy_index(
        y, p, sensitive_features=[0, 0, 1, 1], alpha=0
    ) == np.inf  # fmt: skip
    between = fairness.between_group_generalized_entropy_index(
        y, p, sensitive_features=[0, 0, 1, 1], alpha=0
    )
    assert between == pytest.approx(naive([0.5, 0.5, 1.5, 1.5], 0))


def test_kinds_of_labels_and_bad_input():
    y, p, s = sample()
    want = fairness.theil_index(y, p)
    words = np.array(["no", "yes"])
    assert fairness.theil_index(words[y], words[p], pos_label="yes") == want
    assert fairness.theil_index(torch.as_tensor(y), p.tolist()) == want
    assert fairness.theil_index(2 * y - 1, 2 * p - 1) == want
    with pytest.raises(ValueError, match="pos_label"):
        fairness.theil_index(words[y], words[p])
    with pytest.raises(ValueError, match="alpha must be finite"):
        fairness.generalized_entropy_index(y, p, np.nan)
    with pytest.raises(ValueError, match="privileged must be one of"):
        fairness.between_group_generalized_entropy_index(y, p, sensitive_features=s, privileged="x")
    with pytest.warns(SmallGroupWarning, match="every row is a false negative"):
        assert np.isnan(fairness.generalized_entropy_index([1, 1], [0, 0]))


@pytest.mark.parametrize("alpha", ["2", True, None, [2]])
def test_alpha_is_a_number(alpha):
    with pytest.raises(TypeError, match="alpha must be a number"):
        fairness.generalized_entropy_index([0, 1], [1, 0], alpha)
