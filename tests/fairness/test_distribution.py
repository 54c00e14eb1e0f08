"""Kolmogorov distances of groups' predictions: scipy's statistic, and what it bounds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trustml.fairness import demographic_parity_difference, distribution_parity_difference
from trustml.fairness._measure import FairnessMeasure
from trustml.warnings import SmallGroupWarning


def sample(n=150, n_groups=3, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.integers(0, n_groups, n)
    return np.round(rng.normal(size=n) + 0.3 * s, 1), s  # with ties


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_it_is_the_largest_kolmogorov_distance(seed, n_groups):
    values, s = sample(seed=seed, n_groups=n_groups)
    parts = [values[s == g] for g in range(n_groups)]
    pairs = [stats.ks_2samp(a, b).statistic for a in parts for b in parts]
    found = distribution_parity_difference(values, sensitive_features=s)
    assert found.value == pytest.approx(max(pairs))
    to_all = [stats.ks_2samp(part, values).statistic for part in parts]
    overall = distribution_parity_difference(values, sensitive_features=s, method="to_overall")
    assert overall.value == pytest.approx(max(to_all))
    np.testing.assert_allclose(overall.table["distance to everybody"], to_all)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_it_is_the_largest_demographic_parity_difference_of_any_threshold(seed):
    values, s = sample(seed=seed)
    found = distribution_parity_difference(values, sensitive_features=s)
    gaps = [
        demographic_parity_difference(values > t, values > t, sensitive_features=s)
        for t in np.unique(values)
    ]
    assert found.value == pytest.approx(max(gaps))
    for monotone in (np.exp, lambda v: 1e4 * v - 7):
        again = distribution_parity_difference(monotone(values), sensitive_features=s)
        assert again.value == pytest.approx(found.value)


def test_words_name_the_threshold_and_the_groups():
    values = np.r_[np.arange(40.0), np.arange(20.0, 60.0)]
    found = distribution_parity_difference(values, sensitive_features=["f"] * 40 + ["m"] * 40)
    assert found.value == 0.5
    assert found.words == "predictions above 19: 0.5 of f, 1 of m"
    np.testing.assert_array_equal(found.table["median"], [19.5, 39.5])
    overall = distribution_parity_difference(
        values, sensitive_features=["f"] * 40 + ["m"] * 40, method="to_overall"
    )
    assert overall.value == pytest.approx(0.25)
    assert overall.words.endswith("of everybody")


def test_kinds_of_arrays_and_bad_input():
    values, s = sample()
    want = distribution_parity_difference(values, sensitive_features=s).value
    tensors = distribution_parity_difference(
        torch.tensor(values), sensitive_features=torch.tensor(s)
    )
    assert tensors.value == want
    gap = distribution_parity_difference(values > 0, sensitive_features=s).value
    assert gap == pytest.approx(
        demographic_parity_difference(values > 0, values > 0, sensitive_features=s)
    )
    with pytest.raises(TypeError, match="must hold numbers"):
        distribution_parity_difference(values.astype(str), sensitive_features=s)
    with pytest.raises(ValueError, match="method must be one of"):
        distribution_parity_difference(values, sensitive_features=s, method="x")
    with pytest.raises(ValueError, match="NaN"):
        distribution_parity_difference(values * np.nan, sensitive_features=s)
    with pytest.warns(SmallGroupWarning, match="fewer than 20 rows"):
        distribution_parity_difference(values[:20], sensitive_features=s[:20])


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_measure_compares_and_formats_as_its_number(value, bound):
    measure = FairnessMeasure("gap", value, "nobody", {"group": np.array(["f"])})
    assert (measure < bound, measure <= bound) == (value < bound, value <= bound)
    assert (measure > bound, measure >= bound) == (value > bound, value >= bound)
    assert (bound < measure, bound >= measure) == (bound < value, bound >= value)
    assert f"{measure:.3f}" == f"{value:.3f}"
    assert f"{measure}" == str(measure)
