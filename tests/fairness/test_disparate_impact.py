"""Repair of columns towards the groups' median distribution."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.utils.estimator_checks import check_estimator

from trustml.fairness import DisparateImpactRemover


class WithGroups(DisparateImpactRemover):
    """Reads the groups off the rows, where none are given."""

    def fit(self, X, y=None, *, sensitive_features=None):
        return super().fit(X, y, sensitive_features=groups_of(X, sensitive_features))

    def transform(self, X, *, sensitive_features=None):
        return super().transform(X, sensitive_features=groups_of(X, sensitive_features))

    def fit_transform(self, X, y=None, *, sensitive_features=None):
        return self.fit(X, y).transform(X)


def groups_of(X, given):
    if given is not None:
        return given
    return np.arange(X.shape[0] if hasattr(X, "shape") else len(np.asarray(X))) % 2


def test_scikit_learn_accepts_it():
    # A row alone is in group 0 here whatever it was in the batch: not a fault of the method.
    alone = "check_methods_subset_invariance"
    order = "check_methods_sample_order_invariance"
    reason = dict.fromkeys((alone, order), "the groups are read off the position")
    check_estimator(WithGroups(), expected_failed_checks=reason, on_skip=None)


def sample(seed, n=300, digits=None):
    rng = np.random.default_rng(seed)
    s = rng.choice(list("aabbbc"), n)
    X = rng.normal(size=(n, 2)) * (1 + (s == "b")[:, None]) + (s == "c")[:, None]
    return (X if digits is None else X.round(digits)), s


def repaired(X, s, level=1.0):
    return DisparateImpactRemover(repair_level=level).fit_transform(X, sensitive_features=s)


@given(st.integers(0, 10_000), st.sampled_from([None, 1, 0]))
@settings(max_examples=20, deadline=None)
def test_groups_become_alike_and_keep_their_order(seed, digits):
    X, s = sample(seed, digits=digits)
    found = repaired(X, s)
    means = np.array([found[s == g].mean(0) for g in "abc"])
    np.testing.assert_allclose(means, means[[0, 0, 0]], atol=1e-12)
    for g in "abc":
        order = np.argsort(X[s == g, 0], kind="stable")
        assert (np.diff(found[s == g, 0][order]) >= 0).all()
        same = np.diff(X[s == g, 0][order]) == 0
        assert (np.diff(found[s == g, 0][order])[same] == 0).all()


def test_distributions_agree_up_to_a_row_of_the_smallest_group():
    X, s = sample(0, n=1200)
    found = repaired(X, s)
    smallest = min((s == g).sum() for g in "abc")
    for j in range(2):
        columns = [found[s == g, j] for g in "abc"]
        gap = max(stats.ks_2samp(columns[0], c).statistic for c in columns[1:])
        assert gap <= 2 / smallest
        assert stats.ks_2samp(X[s == "a", j], X[s == "c", j]).statistic > 0.2


def test_the_formula_of_two_groups_of_one_size():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=30), rng.exponential(size=30)
    X, s = np.concatenate([a, b])[:, None], ["a"] * 30 + ["b"] * 30
    target = (np.sort(a) + np.sort(b)) / 2
    found = repaired(X, s)
    np.testing.assert_allclose(np.sort(found[:30, 0]), target)
    np.testing.assert_allclose(np.sort(found[30:, 0]), target)
    np.testing.assert_allclose(repaired(X, s, 0.3), 0.7 * X + 0.3 * found)
    np.testing.assert_array_equal(repaired(X, s, 0.0), X)


def test_affine_changes_pass_through():
    X, s = sample(2)
    new, groups = sample(3, n=50)
    for scale in (1e-4, 1e4):
        plain, scaled = (
            DisparateImpactRemover().fit(Z, sensitive_features=s) for Z in (X, X * scale + 3)
        )
        np.testing.assert_allclose(
            scaled.transform(5 * new * scale + 3, sensitive_features=groups),
            scale * plain.transform(5 * new, sensitive_features=groups) + 3,
            rtol=1e-8,
        )


def test_new_rows_alone_and_frames():
    X, s = sample(4)
    fitted = DisparateImpactRemover().fit(X, sensitive_features=s)
    whole = fitted.transform(X, sensitive_features=s)
    np.testing.assert_array_equal(fitted.transform(X[5:6], sensitive_features=s[5:6]), whole[5:6])
    top = X[s == "a"].max(0)
    shift = fitted.transform(top[None] + 9, sensitive_features=["a"]) - fitted.transform(
        top[None], sensitive_features=["a"]
    )
    np.testing.assert_allclose(shift, 9)
    frame = pd.DataFrame(X, columns=["p", "q"])
    assert list(fitted.transform(frame.to_numpy(), sensitive_features=s).shape) == [300, 2]
    out = DisparateImpactRemover().fit_transform(frame, sensitive_features=s)
    assert list(out.columns) == ["p", "q"]


def test_bad_input():
    X, s = sample(5)
    with pytest.raises(ValueError, match="repair_level must be in"):
        repaired(X, s, -1)
    fitted = DisparateImpactRemover().fit(X, sensitive_features=s)
    with pytest.raises(ValueError, match="did not occur in fit"):
        fitted.transform(X[:1], sensitive_features=["z"])
    with pytest.raises(ValueError, match="one group only"):
        repaired(X, ["a"] * 300)
