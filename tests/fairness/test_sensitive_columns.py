"""Sensitive columns of any shape and name, and the tables that show them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeClassifier

from trustml.fairness import (
    bootstrap_groups,
    corrected_gap,
    count,
    counterfactual_flip_rate,
    gap_test,
    group_metrics,
    minimum_detectable_gap,
    selection_rate,
    subgroup_unfairness,
)

Y = np.tile([0, 1, 1], 40)
A, B = np.repeat([0, 1], 60), np.tile([0, 0, 1, 1], 30)


@pytest.mark.parametrize("names", [[0, 1], ["0", "1"], [1, 0], [("x", "a"), ("x", "b")], [1.5, 2]])
def test_columns_of_any_name_are_the_columns(names):
    frame = pd.DataFrame(np.c_[A, B])
    frame.columns = pd.MultiIndex.from_tuples(names) if type(names[0]) is tuple else names
    want = group_metrics(Y, Y, sensitive_features=np.c_[A, B], metrics=["selection_rate"])
    g = group_metrics(Y, Y, sensitive_features=frame, metrics=["selection_rate"])
    np.testing.assert_array_equal(g.by_group, want.by_group)
    assert g.groups == want.groups
    found = [
        subgroup_unfairness(Y, Y, sensitive_features=columns, rate="selection_rate").value
        for columns in (frame, {"a": A, "b": B})
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("names", [[0, 1], ["a", "b"]])
def test_a_flip_rate_of_a_frame_is_that_of_its_array(names):
    X = np.c_[A, B]
    model = DecisionTreeClassifier(random_state=0).fit(X, A ^ B)
    frame = pd.DataFrame(X, columns=names)
    for j, name in enumerate(names):
        for key in (j, str(name)):
            assert counterfactual_flip_rate(model.fit(X, A), X, j).value == (1 - j)
            got = counterfactual_flip_rate(model, frame.rename(columns=str), key)
            assert got.value == 1 - j
        assert counterfactual_flip_rate(model, frame, j).value == 1 - j


def test_equal_names_of_columns_raise():
    frame = pd.DataFrame(np.c_[A, B], columns=["sex", "sex"])
    with pytest.raises(ValueError, match="more than one column called 'sex'"):
        group_metrics(Y, Y, sensitive_features=frame)


@pytest.mark.filterwarnings("ignore::trustml.warnings.SmallGroupWarning")
@given(st.lists(st.sampled_from([1, "1", 1.5, "x", True]), min_size=30, max_size=30))
def test_values_of_a_list_keep_their_type(values):
    present = dict.fromkeys(values)
    if len(present) < 2:
        return
    y = np.zeros(30, dtype=int)
    g = group_metrics(y, y, sensitive_features=values, metrics=["selection_rate"])
    assert set(g.groups) == set(present)
    assert g.counts.sum() == 30


@pytest.mark.parametrize("column", ["count", "accuracy", "sex"])
def test_tables_show_groups_counts_and_metrics_whatever_their_names(column):
    s = pd.Series(np.array(["f", "m"])[A], name=column)
    metrics = {"count": count, "accuracy": "accuracy"}
    g = group_metrics(Y, Y, sensitive_features=s, metrics=metrics)
    title = column if column == "sex" else f"{column} (group)"
    frame = g.to_frame()
    assert list(frame.columns) == [title, "count", "count (metric)", "accuracy"]
    assert frame[title].tolist() == ["f", "m"]
    assert frame["count"].tolist() == frame["count (metric)"].tolist() == [60, 60]
    lines = [line.split() for line in repr(g).splitlines()]
    assert ["f", "60", "60", "1"] in lines
    assert ["overall", "120", "120", "1"] in lines


def test_a_callable_named_count_prints():
    g = group_metrics(Y, Y, sensitive_features=A, metrics=[selection_rate, count])
    assert "count (metric)" in repr(g)
    assert g.by_group["count"][1] == 60


@pytest.mark.parametrize(
    "call", [gap_test, corrected_gap, bootstrap_groups, minimum_detectable_gap]
)
def test_what_needs_a_report_says_so(call):
    with pytest.raises(TypeError, match="what group_metrics returns, got ndarray"):
        call(np.ones(3))
