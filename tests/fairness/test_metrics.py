"""Rates and disparities: definitions, parity with fairlearn, and where fairlearn misleads."""

import warnings

import fairlearn.metrics as peer
import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustml import fairness
from trustml.warnings import SmallGroupWarning

NAMES = [
    name
    for name, metric in vars(fairness.metrics).items()
    if name.endswith(("_difference", "_ratio")) and name in fairness.__all__ and callable(metric)
]
SIGNED = [
    fairness.average_odds_difference,
    fairness.average_abs_odds_difference,
    fairness.average_predictive_value_difference,
]


def sample(n=300, n_groups=3, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.integers(0, n_groups, n)
    y = (rng.random(n) < 0.3 + 0.1 * s).astype(int)
    p = (rng.random(n) < 0.2 + 0.4 * y + 0.1 * s).astype(int)
    return y, p, s, rng.random(n)


@pytest.mark.peers
@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(peer, name)])
@pytest.mark.parametrize("method", ["between_groups", "to_overall"])
@pytest.mark.parametrize("weighted", [False, True])
def test_disparities_are_fairlearns(name, method, weighted):
    y, p, s, w = sample()
    weights = w if weighted else None
    if name.startswith("accuracy"):  # fairlearn's generated metrics take weights as sample_params
        weights = None
    kwargs = {"sensitive_features": s, "method": method}
    if weights is not None:
        kwargs["sample_weight"] = weights
    ours = getattr(fairness, name)(y, p, **kwargs)
    assert ours == pytest.approx(getattr(peer, name)(y, p, **kwargs), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "of_group"),
    [
        ("precision", lambda y, p: sklearn.metrics.precision_score(y, p)),
        ("predictive_parity", lambda y, p: sklearn.metrics.precision_score(y, p)),
        ("false_discovery_rate", lambda y, p: 1 - sklearn.metrics.precision_score(y, p)),
        ("negative_predictive_value", lambda y, p: (y[p == 0] == 0).mean()),
        ("false_omission_rate", lambda y, p: (y[p == 0] == 1).mean()),
        ("zero_one_loss", sklearn.metrics.zero_one_loss),
    ],
)
def test_disparities_of_predictive_values_and_errors(name, of_group):
    y, p, s, _ = sample()
    values = [of_group(y[s == g], p[s == g]) for g in range(3)]
    overall = of_group(y, p)
    difference = getattr(fairness, f"{name}_difference")
    ratio = getattr(fairness, f"{name}_ratio")
    assert difference(y, p, sensitive_features=s) == pytest.approx(max(values) - min(values))
    assert ratio(y, p, sensitive_features=s) == pytest.approx(min(values) / max(values))
    farthest = max(abs(v - overall) for v in values)
    assert difference(y, p, sensitive_features=s, method="to_overall") == pytest.approx(farthest)


@pytest.mark.peers
@pytest.mark.parametrize("weighted", [False, True])
def test_signed_averages_are_aif360s(weighted):
    aif360 = pytest.importorskip("aif360.sklearn.metrics")
    pd = pytest.importorskip("pandas")
    y, p, s, w = sample()
    series = pd.Series(y, index=pd.Index(s, name="s"))
    kwargs = {"sample_weight": w} if weighted else {}
    peers = [
        aif360.average_odds_difference,
        aif360.average_odds_error,
        aif360.average_predictive_value_difference,
    ]
    for metric, theirs in zip(SIGNED, peers, strict=True):
        ours = metric(y, p, sensitive_features=s, privileged=2, **kwargs)
        assert ours == pytest.approx(theirs(series, p, prot_attr="s", priv_group=2, **kwargs))


def test_average_odds_can_cancel_and_the_absolute_one_cannot():
    y = np.tile([1, 1, 0, 0], 2)
    p = np.array([0, 1, 1, 0, 1, 1, 0, 0])
    s = np.repeat(["f", "m"], 4)
    signed, absolute, _ = (metric(y, p, sensitive_features=s, privileged="m") for metric in SIGNED)
    assert (signed, absolute) == (0.0, 0.5)
    assert fairness.equalized_odds_difference(y, p, sensitive_features=s, agg="mean") == absolute


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_signed_averages_turn_with_the_privileged_of_two_groups(seed):
    y, p, s, _ = sample(n=60, n_groups=2, seed=seed)
    y[:4], p[:4], s[:8] = [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0, 1, 1, 1, 1]
    y[4:8], p[4:8] = y[:4], p[:4]
    for metric in SIGNED:
        one, other = (metric(y, p, sensitive_features=s, privileged=g) for g in (0, 1))
        sign = 1 if metric is fairness.average_abs_odds_difference else -1
        assert one == pytest.approx(sign * other)
        assert -1 <= one <= 1


def test_signed_averages_without_a_rate_are_nan_and_an_unknown_group_is_refused():
    y, p, s, _ = sample()
    for metric in SIGNED:
        with pytest.raises(ValueError, match="privileged must be one of the groups"):
            metric(y, p, sensitive_features=s, privileged="m")
        with pytest.raises(TypeError):
            metric(y, p, s, privileged=0)
    with pytest.warns(SmallGroupWarning, match="true_positive_rate.*are undefined"):
        value = fairness.average_odds_difference(
            np.where(s == 0, 0, y), p, sensitive_features=s, privileged=0
        )
    assert np.isnan(value)


@pytest.mark.peers
@pytest.mark.parametrize("agg", ["worst_case", "mean"])
def test_equalized_odds_aggregates_as_fairlearn(agg):
    y, p, s, _ = sample()
    for name in ("equalized_odds_difference", "equalized_odds_ratio"):
        ours = getattr(fairness, name)(y, p, sensitive_features=s, agg=agg)
        assert ours == pytest.approx(getattr(peer, name)(y, p, sensitive_features=s, agg=agg))


@pytest.mark.peers
@pytest.mark.parametrize(
    "name",
    [
        "selection_rate", "true_positive_rate", "true_negative_rate", "false_positive_rate",
        "false_negative_rate", "mean_prediction",
    ],
)  # fmt: skip
def test_rates_are_fairlearns(name):
    y, p, _, w = sample()
    for weights in (None, w):
        ours = getattr(fairness, name)(y, p, sample_weight=weights)
        assert ours == pytest.approx(getattr(peer, name)(y, p, sample_weight=weights))
    assert fairness.count(y, p) == peer.count(y, p)


@pytest.mark.peers
def test_fairlearn_reads_a_group_without_positives_as_a_rate_of_zero():
    y = np.array([0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 0])
    p = np.array([1, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 0])
    s = np.array(["a"] * 3 + ["b"] * 5 + ["c"] * 4)
    assert peer.equal_opportunity_difference(y, p, sensitive_features=s) == 1.0  # invented
    with pytest.warns(SmallGroupWarning, match=r"undefined in the groups \['a'\]"):
        assert fairness.equal_opportunity_difference(y, p, sensitive_features=s) == 0.0


@pytest.mark.peers
def test_fairlearn_finds_perfect_parity_in_string_labels():
    y, p, s, _ = sample()
    words, said = np.where(y, "good", "bad"), np.where(p, "good", "bad")
    assert peer.demographic_parity_difference(words, said, sensitive_features=s) == 0.0  # wrong
    with pytest.raises(ValueError, match="pos_label"):
        fairness.demographic_parity_difference(words, said, sensitive_features=s)
    ours = fairness.demographic_parity_difference(
        words, said, sensitive_features=s, pos_label="good"
    )
    assert ours == fairness.demographic_parity_difference(y, p, sensitive_features=s) > 0


@given(st.integers(0, 10_000), st.permutations([0, 1, 2]))
@settings(max_examples=25, deadline=None)
def test_names_and_order_of_groups_do_not_matter(seed, renamed):
    y, p, s, _ = sample(n=60, seed=seed)
    order = np.random.default_rng(seed).permutation(60)
    other = np.array(["u", "v", "w"])[np.array(renamed)[s]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallGroupWarning)
        for name in NAMES:
            metric = getattr(fairness, name)
            before = metric(y, p, sensitive_features=s)
            after = metric(y[order], p[order], sensitive_features=other[order])
            assert before == pytest.approx(after, nan_ok=True)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_swapping_the_labels_keeps_the_demographic_parity_difference(seed):
    y, p, s, _ = sample(n=60, seed=seed)
    difference = fairness.demographic_parity_difference
    assert difference(y, p, sensitive_features=s) == pytest.approx(
        difference(1 - y, 1 - p, sensitive_features=s)
    )


def test_every_kind_of_array_gives_the_same_number():
    pd = pytest.importorskip("pandas")
    y, p, s, _ = sample()
    want = fairness.equalized_odds_difference(y, p, sensitive_features=s)
    frame = pd.DataFrame({"s": s}, index=np.arange(len(s))[::-1] + len(s))
    for features in (s.tolist(), torch.as_tensor(s), frame, frame["s"], {"s": s}, s[:, None]):
        got = fairness.equalized_odds_difference(
            torch.as_tensor(y), pd.Series(p), sensitive_features=features
        )
        assert got == want
    signs = fairness.equalized_odds_difference(2 * y - 1, 2 * p - 1, sensitive_features=s)
    assert signs == want
    assert fairness.equalized_odds_difference(y == 1, p == 1, sensitive_features=s) == want


def test_several_columns_are_intersections():
    y, p, s, _ = sample(n=400, n_groups=2)
    t = np.arange(400) % 2
    joined = np.array([f"{a}{b}" for a, b in zip(s, t, strict=True)])
    pair = fairness.selection_rate_difference(y, p, sensitive_features=np.column_stack([s, t]))
    assert pair == fairness.selection_rate_difference(y, p, sensitive_features=joined)


@pytest.mark.parametrize("name", NAMES)
def test_sensitive_features_is_keyword_only(name):
    y, p, s, _ = sample()
    with pytest.raises(TypeError):
        getattr(fairness, name)(y, p, s)


def with_gap(values, position=3):
    values = np.asarray(values, dtype=object).copy()
    values[position] = None
    return values


Y, P, S, _ = sample()
BAD = {
    "short": ((Y, P[:-1], S), "same length"),
    "empty": (([], [], []), "must not be empty"),
    "two columns": ((np.column_stack([Y, Y]), P, S), r"must have shape \(n,\)"),
    "nan": ((np.where(S == 0, np.nan, Y), P, S), "NaN"),
    "missing label": ((with_gap(Y), P, S), "missing"),
    "missing group": ((Y, P, with_gap(S)), "missing values"),
    "nan group": ((Y, P, np.where(S == 0, np.nan, S)), "missing values"),
    "short groups": ((Y, P, S[:-1]), "one row for each"),
    "one group": ((Y, P, np.zeros(len(Y))), "one group only"),
    "continuous": ((Y, P, np.linspace(0, 1, len(Y))), "bin it"),
    "identifier": ((Y, P, np.arange(len(Y))), "identifier"),
    "many classes": ((S, P, S), "pos_label"),
    "cube": ((Y, P, np.zeros((len(Y), 1, 1))), "sensitive_features must have shape"),
    "no columns": ((Y, P, {}), "at least one column"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_fix(case):
    (y, p, s), message = BAD[case]
    with pytest.raises(ValueError, match=message):
        fairness.demographic_parity_difference(y, p, sensitive_features=s)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="method must be one of"):
        fairness.demographic_parity_ratio(Y, P, sensitive_features=S, method="x")
    with pytest.raises(ValueError, match="agg must be one of"):
        fairness.equalized_odds_ratio(Y, P, sensitive_features=S, agg="x")
    with pytest.raises(ValueError, match="not among the labels"):
        fairness.equalized_odds_ratio(Y, P, sensitive_features=S, pos_label="yes")
    with pytest.raises(TypeError, match="None"):
        fairness.equalized_odds_ratio(Y, P, sensitive_features=None)
    with pytest.raises(ValueError, match="negative"):
        fairness.selection_rate(Y, P, sample_weight=-np.ones(len(Y)))


def test_undefined_is_nan_and_says_so():
    with pytest.warns(SmallGroupWarning, match="no row counts"):
        assert np.isnan(fairness.true_positive_rate([0, 0], [0, 1]))
    with pytest.warns(SmallGroupWarning, match="0 in every group"):
        ratio = fairness.demographic_parity_ratio(Y, 0 * P, sensitive_features=S)
    assert np.isnan(ratio)
