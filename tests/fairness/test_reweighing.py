"""Kamiran and Calders' weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError

from trustml.fairness import Reweighing


def sample(seed, n=200):
    rng = np.random.default_rng(seed)
    s = rng.integers(0, 3, n)
    return (rng.random(n) < 0.2 + 0.25 * s).astype(int), s


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_label_and_group_become_independent(seed):
    y, s = sample(seed)
    weights = Reweighing().fit(None, y, sensitive_features=s).sample_weight_
    assert weights.sum() == pytest.approx(len(y))
    rates = [np.average(y[s == g], weights=weights[s == g]) for g in range(3)]
    np.testing.assert_allclose(rates, y.mean())
    shares = [weights[s == g].sum() for g in range(3)]
    np.testing.assert_allclose(shares, np.bincount(s, minlength=3))


def test_the_formula_and_other_rows():
    y, s = sample(0)
    fitted = Reweighing().fit(None, y, sensitive_features=s)
    joint = ((s == 1) & (y == 0)).mean()
    assert fitted.weights_[1, 0] == pytest.approx((s == 1).mean() * (y == 0).mean() / joint)
    np.testing.assert_array_equal(
        fitted.sample_weight(y[:50], sensitive_features=s[:50]), fitted.sample_weight_[:50]
    )


def test_strings_and_intersections():
    y, s = sample(1)
    both = np.column_stack([s, np.arange(len(s)) % 2])
    fitted = Reweighing().fit(None, np.where(y, "good", "bad"), sensitive_features=both)
    assert ((0, 1), "good") in fitted.weights_


def test_bad_input():
    y, s = sample(2)
    with pytest.raises(NotFittedError, match="call fit"):
        Reweighing().sample_weight(y, sensitive_features=s)
    with pytest.raises(TypeError):
        Reweighing().fit(None, y, s)
    with pytest.raises(ValueError, match="one row for each"):
        Reweighing().fit(None, y, sensitive_features=s[1:])
    fitted = Reweighing().fit(None, y, sensitive_features=s)
    with pytest.raises(ValueError, match="did not occur in fit"):
        fitted.sample_weight(y + 5, sensitive_features=s)


def test_measurements_are_no_labels():
    y, s = sample(0)
    with pytest.raises(ValueError, match="continuous"):
        Reweighing().fit(None, y + np.random.default_rng(0).normal(size=200), sensitive_features=s)
