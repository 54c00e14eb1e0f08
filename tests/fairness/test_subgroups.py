"""Subgroup unfairness: the exact search against a naive one, half-spaces, words, chance."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml.fairness import subgroup_unfairness

RATES = ["selection_rate", "false_positive_rate", "false_negative_rate", "accuracy"]


def sample(n=200, seed=0):
    rng = np.random.default_rng(seed)
    columns = {
        "sex": np.array(["f", "m"])[rng.integers(0, 2, n)],
        "race": np.array(["a", "b", "c"])[rng.integers(0, 3, n)],
        "age": rng.integers(20, 70, n),
    }
    y = rng.integers(0, 2, n)
    p = (rng.random(n) < 0.3 + 0.4 * y * (columns["sex"] == "f") * (columns["age"] > 40)).astype(
        int
    )
    return y, p, columns


def naive(y, p, columns, rate, depth, n_bins=3):
    """Search all conjunctions by loops; returns the largest violation."""
    hit, counts = {
        "selection_rate": (p == 1, y == y),
        "false_positive_rate": (p == 1, y == 0),
        "false_negative_rate": (p == 0, y == 1),
        "accuracy": (p == y, y == y),
    }[rate]
    overall = hit[counts].mean()
    conditions = []
    for values in columns.values():
        if values.dtype.kind == "i":
            for edge in np.quantile(values, np.arange(1, n_bins) / n_bins):
                conditions += [values <= edge, values > edge]
        else:
            for value in np.unique(values):
                conditions += [values == value, values != value]
    best = 0.0
    for size in range(1, depth + 1):
        for joined in itertools.combinations(conditions, size):
            inside = np.logical_and.reduce(joined) & counts
            if inside.any():
                best = max(best, inside.mean() * abs(hit[inside].mean() - overall))
    return best


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(RATES), st.integers(1, 3))
def test_the_search_finds_the_worst_of_all_conjunctions(seed, rate, depth):
    y, p, columns = sample(n=80, seed=seed)
    found = subgroup_unfairness(y, p, sensitive_features=columns, rate=rate, depth=depth, n_bins=3)
    assert found.value == pytest.approx(naive(y, p, columns, rate, depth))
    order = np.random.default_rng(seed).permutation(80)
    again = subgroup_unfairness(
        y[order], p[order], rate=rate, depth=depth, n_bins=3,
        sensitive_features={name: values[order] for name, values in columns.items()},
    )  # fmt: skip
    assert again.value == pytest.approx(found.value)
    assert again.words == found.words
    np.testing.assert_array_equal(np.sort(order[again.rows]), found.rows)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["conjunction", "linear"]))
def test_the_rows_named_have_the_violation_said(seed, kind):
    y, p, columns = sample(seed=seed)
    found = subgroup_unfairness(y, p, sensitive_features=columns, subgroups=kind)
    inside = np.zeros(len(y), dtype=bool)
    inside[found.rows] = True
    inside &= y == 0
    gap = abs(p[inside].mean() - p[y == 0].mean())
    assert found.value == pytest.approx(inside.mean() * gap)
    assert found.table["violation"][0] == found.value
    assert found.table["false_positive_rate"][0] == pytest.approx(p[inside].mean())
    assert found.table["rows that count"][0] == inside.sum()
    assert (np.diff(found.table["violation"]) <= 1e-12).all()
    assert f"of the {inside.sum()} rows with" in found.words


def test_fair_to_each_column_and_unfair_to_their_join():
    sex, age = np.tile(["f", "m"], 60), np.repeat(["old", "young"], 60)
    p = ((sex == "f") == (age == "old")).astype(int)
    columns = {"sex": sex, "age": age}
    kwargs = {"sensitive_features": columns, "rate": "selection_rate"}
    assert subgroup_unfairness(p, p, depth=1, **kwargs).value == 0
    found = subgroup_unfairness(p, p, depth=2, **kwargs)
    assert found.value == 0.125
    assert len(found.table["subgroup"]) == 8  # four values, four joins
    assert found.table["subgroup"][0] == "sex = f and age = old"
    assert found.words == (
        "selection rate 1 of the 30 rows with sex = f and age = old, 0.5 of all 120"
    )  # fmt: skip


def test_deeper_searches_find_no_less_and_each_subgroup_once():
    y, p, columns = sample()
    values = []
    for depth in (1, 2, 3):
        found = subgroup_unfairness(y, p, sensitive_features=columns, depth=depth)
        values.append(found.value)
        assert len(set(found.table["subgroup"])) == len(found.table["subgroup"])
        assert max(text.count(" and ") for text in found.table["subgroup"]) == depth - 1
    assert values == sorted(values)


def test_a_half_space_of_one_column_is_found_exactly():
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    p = (rng.random(300) < np.where(x > 0.4, 0.9, 0.3)).astype(int)
    found = subgroup_unfairness(
        p, p, sensitive_features=x, subgroups="linear", rate="selection_rate"
    )
    centred = (p - p.mean())[np.argsort(x)]
    assert found.value == pytest.approx(np.abs(np.cumsum(centred)).max() / 300)
    scaled = subgroup_unfairness(
        p, p, sensitive_features=1e4 * x - 7, subgroups="linear", rate="selection_rate"
    )
    np.testing.assert_array_equal(scaled.rows, found.rows)


def test_a_tilted_half_space_beats_conjunctions():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2000, 2))
    p = (x.sum(1) > 0).astype(int)
    kwargs = {"sensitive_features": x, "rate": "selection_rate"}
    linear = subgroup_unfairness(p, p, subgroups="linear", **kwargs)
    assert linear.value > subgroup_unfairness(p, p, **kwargs).value
    assert linear.value == pytest.approx(0.25, abs=0.01)  # the whole of p's variance
    assert "standardised sensitive_feature_0" in linear.words


def test_p_values_are_uniform_at_most_without_unfairness_and_small_with_it():
    draws = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        columns = {"a": rng.integers(0, 2, 60), "b": rng.integers(0, 3, 60)}
        y, p = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
        found = subgroup_unfairness(
            y, p, sensitive_features=columns, n_permutations=19, random_state=seed
        )
        draws.append(found.p_value)
    # 24 or more of 60 values at or below 0.2 have a chance below 1e-4 if the test is valid.
    assert np.sum(np.array(draws) <= 0.2) < 24
    assert np.mean(draws) > 0.3
    y, _, columns = sample(n=600)
    p = (columns["sex"] == "f") & (columns["age"] > 40)
    kwargs = {"sensitive_features": columns, "rate": "selection_rate", "n_permutations": 99}
    unfair = subgroup_unfairness(y, p, random_state=0, **kwargs)
    assert unfair.p_value == 0.01
    assert "(p = 0.01)" in repr(unfair)
    again = subgroup_unfairness(y, p, random_state=0, subgroups="linear", **kwargs)
    assert again.p_value == 0.01


def test_kinds_of_columns():
    pd = pytest.importorskip("pandas")
    y, p, columns = sample()
    want = subgroup_unfairness(y, p, sensitive_features=columns)
    frame = pd.DataFrame(columns, index=np.arange(len(y))[::-1])
    assert subgroup_unfairness(y, p, sensitive_features=frame).words == want.words
    mixed = frame.astype(object)  # as a frame of objects, or an array of several kinds, comes
    assert subgroup_unfairness(y, p, sensitive_features=mixed).words == want.words
    codes = torch.tensor(columns["age"])
    only = subgroup_unfairness(torch.tensor(y), p, sensitive_features=codes)
    assert only.value == subgroup_unfairness(y, p, sensitive_features=columns["age"]).value


BAD = {
    "rate": ({"rate": "recall"}, "rate must be one of"),
    "kind": ({"subgroups": "tree"}, "subgroups must be one of"),
    "depth": ({"depth": 0}, "depth must be a positive integer"),
    "too deep": ({"depth": 6, "n_bins": 50}, "too many to search"),
    "constant": ({"sensitive_features": ["a"] * 200}, "one value only"),
    "constant linear": (
        {"sensitive_features": ["a"] * 200, "subgroups": "linear"}, "one value only",
    ),
    "identifier": ({"sensitive_features": [f"id{i}" for i in range(200)]}, "200 different values"),
    "missing": ({"sensitive_features": [None] + ["a"] * 199}, "missing values"),
    "infinite": ({"sensitive_features": [np.inf] + [0.0, 1.0] * 99 + [2.0]}, "infinite values"),
    "short": ({"sensitive_features": ["a", "b"]}, "one row for each"),
    "no negatives": ({"y_true": np.ones(200, dtype=int)}, "no row counts"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_fix(case):
    given, message = BAD[case]
    y, p, columns = sample()
    kwargs = {"y_true": y, "y_pred": p, "sensitive_features": columns} | given
    with pytest.raises(ValueError, match=message):
        subgroup_unfairness(**kwargs)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("kind", "rate"), [("FP", "false_positive_rate"), ("FN", "false_negative_rate")]
)
def test_half_spaces_are_no_better_hidden_from_us_than_from_gerryfair(kind, rate):
    auditor = pytest.importorskip("aif360.algorithms.inprocessing.gerryfair.auditor")
    datasets = pytest.importorskip("aif360.datasets")
    pd = pytest.importorskip("pandas")
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = pd.DataFrame(rng.normal(size=(300, 3)), columns=list("abc"))
        y = rng.integers(0, 2, 300)
        p = (rng.random(300) < 0.5 + 0.2 * np.tanh(x["a"] - x["b"] + 0.5)).astype(int).to_numpy()
        theirs = auditor.Auditor(
            datasets.BinaryLabelDataset(
                df=x.assign(y=y), label_names=["y"], protected_attribute_names=list("abc")
            ),
            kind,
        ).audit(p)
        members, violation = np.asarray(theirs[0]) == 1, float(theirs[1])
        hit, counts = (p == 1, y == 0) if kind == "FP" else (p == 0, y == 1)
        inside = members & counts
        if inside.any():  # their group has the violation they say: the definitions agree
            said = inside.mean() * abs(hit[inside].mean() - hit[counts].mean())
            assert said == pytest.approx(violation)
        ours = subgroup_unfairness(y, p, sensitive_features=x, subgroups="linear", rate=rate)
        assert ours.value >= violation - 1e-12
