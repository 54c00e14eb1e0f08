"""Arrays that answer to names, whatever the names are."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustml.fairness import bootstrap_groups, gap_test, group_metrics
from trustml.fairness._named_array import NamedArray

RATES = ["selection_rate", "accuracy"]
LABELS = st.one_of(
    st.lists(st.integers(-3, 12), min_size=2, max_size=5, unique=True),
    st.lists(st.floats(-3, 3), min_size=2, max_size=5, unique=True),
    st.lists(st.text(max_size=3), min_size=2, max_size=5, unique=True),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=5, unique=True),
    st.lists(st.tuples(st.text(max_size=2), st.booleans()), min_size=2, max_size=5, unique=True),
    st.permutations([False, True]),
)


@given(LABELS)
def test_a_name_is_never_a_position(labels):
    values = np.arange(2.0 * len(labels)).reshape(-1, 2)
    table = NamedArray(values, ("m0", "m1"), tuple(labels))
    for place, label in enumerate(labels):
        np.testing.assert_array_equal(table[label], values[place])
        assert table["m1"][label] == table[label]["m1"] == table[label, "m1"] == values[place, 1]
    np.testing.assert_array_equal(list(table), values)
    np.testing.assert_array_equal(table[1:], values[1:])
    np.testing.assert_array_equal(table[:, 0], values[:, 0])
    np.testing.assert_array_equal(table[values > 2], values[values > 2])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(table))[labels[0]], values[0])


@given(st.lists(st.integers(-3, 12), min_size=2, max_size=5, unique=True), st.integers(-20, 20))
def test_a_number_that_is_no_group_is_refused(labels, key):
    table = NamedArray(np.zeros((len(labels), 2)), ("m0", "m1"), tuple(labels))
    for where in (table, table["m0"]):
        for wrong in (key, np.int64(key)) if key not in labels else (True, np.bool_(False)):
            with pytest.raises(KeyError, match="goes by position"):
                where[wrong]


def test_labels_that_are_not_numbers_leave_positions():
    table = NamedArray([[1.0, 2.0], [3.0, 4.0]], ("m0", "m1"), ("f", "m"))
    assert table[1, 0] == 3.0
    np.testing.assert_array_equal(table[-1], [3.0, 4.0])
    with pytest.raises(KeyError, match="'x' is not one of"):
        table["x"]
    with pytest.raises(KeyError, match="is not one of"):
        table["f", "x"]
    crossed = NamedArray([[1.0, 2.0], [3.0, 4.0]], ("m0", "m1"), ((0, 1), (1, 1)))
    with pytest.raises(KeyError, match="goes by position"):
        crossed[0, 0]


@pytest.mark.parametrize("groups", [(1, 2), (-1, 1), (0, 1), (False, True), ("f", "m")])
def test_all_results_answer_to_groups(groups):
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, (2, 300))
    s = np.array(groups)[rng.integers(0, 2, 300)]
    g = group_metrics(y, p, sensitive_features=s, metrics=RATES, random_state=0)
    draws = bootstrap_groups(g, 50, random_state=0)
    tested = gap_test(g, 50, random_state=0)
    limits, percentiles = g.ci(of="by_group"), draws.ci()
    for place, label in enumerate(groups):
        rows = s == label
        assert g.by_group[label]["accuracy"] == (y == p)[rows].mean()
        assert g.by_group["selection_rate"][label] == g.by_group[label, "selection_rate"]
        own = np.asarray(limits)[place, 1]
        np.testing.assert_array_equal(limits[label]["accuracy"], own)
        np.testing.assert_array_equal(limits["accuracy"][label], own)
        assert limits["low"][label]["accuracy"] == own[0]
        assert percentiles[label, "accuracy"]["high"] == np.asarray(percentiles)[place, 1, 1]
        errors = np.asarray(draws.standard_errors())
        assert draws.standard_errors()[label]["accuracy"] == errors[place, 1]
        p_values = np.asarray(tested.group_p_values)
        assert tested.group_p_values[label]["accuracy"] == p_values[place, 1]
    apart = g.signed_difference()
    np.testing.assert_array_equal(apart[groups[1]], np.diff(np.asarray(g.by_group), axis=0)[0])
    assert str(groups[0]) in repr(tested)


def test_intersections_answer_to_tuples():
    rng = np.random.default_rng(1)
    y, p, a = rng.integers(0, 2, (3, 300))
    b = rng.choice(["x", "y"], 300)
    g = group_metrics(y, p, sensitive_features={"a": a, "b": b}, metrics=RATES)
    assert g.by_group[1, "x"]["accuracy"] == (y == p)[(a == 1) & (b == "x")].mean()
    assert g.by_group["accuracy"][0, "y"] == (y == p)[(a == 0) & (b == "y")].mean()
