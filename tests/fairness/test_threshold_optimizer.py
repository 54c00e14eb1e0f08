"""Thresholds by group: optimal, exact on the training rows, and told by rows alone."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from trustml.fairness import (
    CalibratedEqualizedOdds,
    Multicalibration,
    RejectOptionClassifier,
    ThresholdOptimizer,
)
from trustml.fairness._roc_curves import best_mixtures, compared_rates, curves_of, gains
from trustml.fairness._threshold_search import RangeMaximum, best_thresholds
from trustml.model import wrap
from trustml.warnings import SmallGroupWarning, TrustmlWarning

CONSTRAINTS = (
    "demographic_parity",
    "equal_opportunity",
    "predictive_equality",
    "equalized_odds",
    "error_parity",
)


class Column(ClassifierMixin, BaseEstimator):
    """The first column is the score, through some function."""

    def __init__(self, link=None):
        self.link = link

    def fit(self, X, y, sample_weight=None):
        self.classes_ = np.unique(y)
        self.n_features_in_ = X.shape[1]
        return self

    def decision_function(self, X):
        return X[:, 0] if self.link is None else self.link(X[:, 0])

    def predict(self, X):
        return self.classes_[(self.decision_function(X) > 0).astype(int)]


def sample(seed, n=200, n_groups=2, digits=None):
    rng = np.random.default_rng(seed)
    s = rng.permutation(np.arange(n) % n_groups)
    y = rng.permutation(np.arange(n) // n_groups % 2)
    score = rng.normal(size=n) * (1 + s) + y * (2 - 0.5 * s) + 0.5 * s - 1
    return (score if digits is None else score.round(digits))[:, None], y, s


def curves(X, y, s, weights=None):
    return curves_of(X[:, 0], y == 1, s, np.ones(len(y)) if weights is None else weights)


def spread(values, name):
    return np.ptp([c.rate(name) @ p for c, p in values])


@pytest.mark.filterwarnings("ignore:.*every training row", "ignore:equal rows share")
@given(
    st.integers(0, 10_000),
    st.sampled_from(CONSTRAINTS),
    st.sampled_from(["accuracy", "balanced_accuracy"]),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from([None, 0]),
    st.integers(2, 4),
)
@settings(max_examples=60, deadline=None)
def test_the_expected_gap_is_met_on_the_training_rows(
    seed, constraints, objective, tolerance, digits, n_groups
):
    X, y, s = sample(seed, n_groups=n_groups, digits=digits)
    weights = np.random.default_rng(seed).uniform(0.5, 2, len(y))
    fair = ThresholdOptimizer(
        Column(), constraints=constraints, objective=objective, tolerance=tolerance
    ).fit(X, y, sensitive_features=s, sample_weight=weights)
    p = fair.predict_proba(X, sensitive_features=s)[:, 1]
    where = {
        "selection_rate": y >= 0,
        "true_positive_rate": y == 1,
        "false_positive_rate": y == 0,
        "zero_one_loss": y >= 0,
    }
    for name in compared_rates(constraints):
        said = fair.expected_rates_[name]
        of = np.where(y == 1, 1 - p, p) if name == "zero_one_loss" else p
        for g in range(n_groups):
            mine = (s == g) & where[name]
            assert np.average(of[mine], weights=weights[mine]) == pytest.approx(said[g], abs=1e-9)
        assert max(said.values()) - min(said.values()) <= tolerance + 1e-9
    for g in range(n_groups):
        order = np.argsort(X[s == g, 0])
        assert (np.diff(p[s == g][order]) >= -1e-12).all()


def reachable(curve, x):
    """Highest true weight at false weight x, by all pairs of thresholds."""
    best = -np.inf
    for i, j in itertools.product(range(len(curve.true)), repeat=2):
        a, b = curve.false[i], curve.false[j]
        if a <= x <= b:
            part = 0.0 if a == b else (x - a) / (b - a)
            ends = curve.true[i] * (1 - part) + curve.true[j] * part
            best = max(best, ends, curve.true[j] if b == x else -np.inf)
    return best


@pytest.mark.parametrize("seed", range(6))
def test_equalized_odds_is_the_best_point_under_all_hulls(seed):
    X, y, s = sample(seed, n=24)
    both = curves(X, y, s)
    mixtures = best_mixtures(both, ("true_positive_rate", "false_positive_rate"), "accuracy", 0.0)
    value = sum(v @ p for v, p in zip(gains(both, "accuracy"), mixtures, strict=True))
    steps = np.unique(np.concatenate([c.rate("false_positive_rate") for c in both]))
    grid = np.unique(np.concatenate([np.linspace(a, b, 200) for a, b in itertools.pairwise(steps)]))
    lowest = [min(reachable(c, x * c.false[-1]) / c.true[-1] for c in both) for x in grid]
    naive = max((12 * t + 12 * (1 - x)) / 24 for t, x in zip(lowest, grid, strict=True))
    assert naive - 1e-9 <= value <= naive + 1 / 200 / len(steps) + 1e-9


@pytest.mark.parametrize("constraints", ["demographic_parity", "equal_opportunity"])
@pytest.mark.parametrize("seed", range(3))
def test_one_rate_is_best_among_all_pairs_of_thresholds(seed, constraints):
    X, y, s = sample(seed, n=20)
    both = curves(X, y, s)
    (name,) = compared_rates(constraints)
    mixtures = best_mixtures(both, (name,), "accuracy", 0.0)
    value = sum(v @ p for v, p in zip(gains(both, "accuracy"), mixtures, strict=True))
    levels = np.unique(np.concatenate([c.rate(name) for c in both]))
    totals = np.zeros(len(levels))
    for c, gain in zip(both, gains(both, "accuracy"), strict=True):
        rate = c.rate(name)
        for row, level in enumerate(levels):
            best = -np.inf
            for i, j in itertools.product(range(len(rate)), repeat=2):
                if rate[i] <= level <= rate[j]:
                    part = 0.0 if rate[i] == rate[j] else (level - rate[i]) / (rate[j] - rate[i])
                    best = max(best, gain[i] * (1 - part) + gain[j] * part)
            totals[row] += best
    assert value == pytest.approx(totals.max(), abs=1e-9)


@pytest.mark.parametrize("deterministic", [True, False])
def test_without_a_constraint_every_group_has_its_best_threshold(deterministic):
    X, y, s = sample(1, n=120, n_groups=3)
    fair = ThresholdOptimizer(Column(), tolerance=1.0, deterministic=deterministic)
    fair.fit(X, y, sensitive_features=s)
    best = 0
    for g in range(3):
        mine, cuts = s == g, [-np.inf, *X[s == g, 0]]
        best += max(((X[mine, 0] > t) == y[mine]).sum() for t in cuts)
    assert fair.objective_value_ == pytest.approx(best / 120)
    assert fair.score(X, y, sensitive_features=s) == pytest.approx(best / 120)


@given(
    st.integers(0, 10_000),
    st.sampled_from(CONSTRAINTS),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.integers(2, 3),
)
@settings(max_examples=40, deadline=None)
def test_search_without_chance_equals_all_tuples_of_thresholds(
    seed, constraints, tolerance, n_groups
):
    X, y, s = sample(seed, n=8 * n_groups, n_groups=n_groups, digits=1)
    parts = curves(X, y, s)
    names, gain = compared_rates(constraints), gains(parts, "balanced_accuracy")
    naive = max(
        sum(v[i] for v, i in zip(gain, chosen, strict=True))
        for chosen in itertools.product(*(range(len(c.true)) for c in parts))
        if all(
            np.ptp([c.rate(name)[i] for c, i in zip(parts, chosen, strict=True)])
            <= tolerance + 1e-9
            for name in names
        )
    )
    found = best_thresholds(parts, names, "balanced_accuracy", tolerance)
    assert sum(v[i] for v, i in zip(gain, found, strict=True)) == pytest.approx(naive)
    for name in names:
        gap = np.ptp([c.rate(name)[i] for c, i in zip(parts, found, strict=True)])
        assert gap <= tolerance + 1e-9


@pytest.mark.filterwarnings("ignore:groups with fewer than")
@pytest.mark.parametrize("seed", range(8))
def test_where_errors_come_no_closer_the_smallest_gap_is_taken_and_said(seed):
    rng = np.random.default_rng(seed)
    s = np.repeat([0, 1, 2][: 2 + seed % 2], [11, 17, 13][: 2 + seed % 2])
    X = rng.normal(size=(len(s), 1))
    y = (X[:, 0] + rng.normal(size=len(s)) > 0.5 * s).astype(int)
    parts = curves(X, y, s)
    rates = [c.rate("zero_one_loss") for c in parts]
    smallest = min(np.ptp(chosen) for chosen in itertools.product(*map(np.unique, rates)))
    assert smallest > 1e-3
    fair = ThresholdOptimizer(Column(), constraints="error_parity", deterministic=True)
    with pytest.warns(TrustmlWarning, match=f"the smallest, {smallest:.3g}") as caught:
        fair.fit(X, y, sensitive_features=s)
    said = [w for w in caught if "the smallest" in str(w.message)]
    assert [w.filename for w in said] == [__file__]
    errors = fair.predict(X, sensitive_features=s) != y
    gap = np.ptp([errors[s == g].mean() for g in np.unique(s)])
    assert gap == pytest.approx(smallest)


def test_many_thresholds_are_thinned_within_the_constraint():
    rng = np.random.default_rng(0)
    s, y = rng.integers(0, 2, (2, 5000))
    X = (rng.normal(size=5000) + 1.5 * y + 0.7 * s)[:, None]
    fair = ThresholdOptimizer(Column(), deterministic=True, tolerance=0.03)
    fair.fit(X, y, sensitive_features=s)
    drawn = ThresholdOptimizer(Column(), tolerance=0.03).fit(X, y, sensitive_features=s)
    for values in fair.expected_rates_.values():
        assert max(values.values()) - min(values.values()) <= 0.03 + 1e-9
    assert drawn.objective_value_ - 0.02 < fair.objective_value_ <= drawn.objective_value_ + 1e-9
    p = fair.predict_proba(X, sensitive_features=s)
    assert set(np.unique(p)) == {0.0, 1.0}


def test_range_maximum():
    values = np.random.default_rng(0).integers(0, 5, 37).astype(float)
    low, high = (a.ravel() for a in np.meshgrid(np.arange(38), np.arange(38)))
    found = RangeMaximum(values).at(low, high)
    for i, j, k in zip(low, high, found, strict=True):
        assert (k == -1) if j <= i else (i <= k < j and values[k] == values[i:j].max())


@pytest.mark.parametrize("link", [np.exp, np.arctan, lambda s: 1e4 * s - 7, lambda s: s**3])
def test_rising_functions_of_the_score_change_nothing(link):
    X, y, s = sample(2)
    plain = ThresholdOptimizer(Column()).fit(X, y, sensitive_features=s)
    other = ThresholdOptimizer(Column(link)).fit(X, y, sensitive_features=s)
    np.testing.assert_allclose(
        other.predict_proba(X, sensitive_features=s),
        plain.predict_proba(X, sensitive_features=s),
        atol=1e-12,
    )


def test_decisions_are_drawn_with_their_probability_and_belong_to_the_row():
    X, y, s = sample(3, n=6000)
    fair = ThresholdOptimizer(Column()).fit(X, y, sensitive_features=s)
    p = fair.predict_proba(X, sensitive_features=s)
    np.testing.assert_allclose(p.sum(1), 1)
    chance = (p[:, 1] > 0) & (p[:, 1] < 1)
    assert chance.sum() > 300
    decided = fair.predict(X, sensitive_features=s)
    error = np.sqrt((p[:, 1] * p[:, 0]).sum())
    assert abs(decided.sum() - p[:, 1].sum()) < 4.5 * error  # 7 in a million
    some = np.flatnonzero(chance)[:20]
    for i in some:
        alone = fair.predict(X[i : i + 1], sensitive_features=s[i : i + 1])
        assert alone[0] == decided[i]
    again = ThresholdOptimizer(Column(), random_state=1).fit(X, y, sensitive_features=s)
    np.testing.assert_array_equal(again.predict_proba(X, sensitive_features=s), p)
    assert (again.predict(X, sensitive_features=s) != decided)[chance].any()
    generator = np.random.default_rng(0)
    one, two = (
        ThresholdOptimizer(Column(), random_state=generator).fit(X, y, sensitive_features=s).seed_
        for _ in range(2)
    )
    assert one != two


def few(seed, n=1000, distinct=True):
    """Rows of two kinds, or of as many as there are rows."""
    rng = np.random.default_rng(seed)
    s = rng.choice(["a", "b"], n)
    x = rng.normal(size=n) + (s == "b")
    y = (x + rng.normal(size=n) > 0.5).astype(int)
    return (x if distinct else (x > 0.5).astype(float))[:, None], y, s


@pytest.mark.parametrize("constraints", ["demographic_parity", "equalized_odds", "error_parity"])
def test_draws_that_equal_rows_share_are_said_to_leave_a_gap(constraints):
    said = 0
    for seed in range(10):
        X, y, s = few(seed, 600, distinct=False)
        fair = ThresholdOptimizer(Column(), constraints=constraints, random_state=seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fair.fit(X, y, sensitive_features=s)
        found = [w for w in caught if "share one draw" in str(w.message)]
        assert [w.filename for w in found] in ([], [__file__], [__file__] * 2)
        drawn = fair.predict(X, sensitive_features=s)
        counted = {
            "demographic_parity": [(drawn == 1, y >= 0)],
            "equalized_odds": [(drawn == 1, y == 0), (drawn == 1, y == 1)],
            "error_parity": [(drawn != y, y >= 0)],
        }[constraints]
        gaps = [abs(v[w & (s == "a")].mean() - v[w & (s == "b")].mean()) for v, w in counted]
        # Five standard errors of independent draws are about .25 here at most.
        assert sum(gap > 0.35 for gap in gaps) <= len(found) <= sum(gap > 0.01 for gap in gaps)
        said += bool(found)
    assert said


@pytest.mark.parametrize("constraints", ["demographic_parity", "equalized_odds", "error_parity"])
def test_draws_of_distinct_rows_even_out(constraints):
    for seed in range(10):
        X, y, s = few(seed)
        fair = ThresholdOptimizer(Column(), constraints=constraints, random_state=seed)
        weights = np.random.default_rng(seed).uniform(0.1, 5, len(y))
        fair.fit(X, y, sensitive_features=s, sample_weight=weights)  # warnings are errors


def test_what_can_give_the_scores():
    rng = np.random.default_rng(4)
    X, y, s = sample(4, n=300)
    X = np.column_stack([X, rng.normal(size=300)])
    logistic = LogisticRegression().fit(X, y)
    expected = ThresholdOptimizer(LogisticRegression()).fit(X, y, sensitive_features=s)
    wanted = expected.predict_proba(X, sensitive_features=s)
    for estimator, prefit in ((logistic, True), (wrap(logistic), False)):
        fair = ThresholdOptimizer(estimator, prefit=prefit).fit(X, y, sensitive_features=s)
        np.testing.assert_allclose(fair.predict_proba(X, sensitive_features=s), wanted, atol=1e-6)
    module = torch.nn.Linear(2, 1).double()
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(logistic.coef_))
        module.bias.copy_(torch.from_numpy(logistic.intercept_))
    before = [p.clone() for p in module.parameters()]
    for asked in (module, wrap(module, task="classification")):
        fair = ThresholdOptimizer(asked).fit(X, y, sensitive_features=s)
        np.testing.assert_allclose(fair.predict_proba(X, sensitive_features=s), wanted, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    margins = ThresholdOptimizer(LinearSVC()).fit(X, y, sensitive_features=s)
    assert margins.predict(X, sensitive_features=s).shape == (300,)
    frame = pd.DataFrame(X, columns=["a", "b"])
    fair = ThresholdOptimizer(LogisticRegression()).fit(frame, y, sensitive_features=pd.Series(s))
    assert fair.feature_names_in_.tolist() == ["a", "b"]


WEIGHED = (
    ThresholdOptimizer,
    RejectOptionClassifier,
    CalibratedEqualizedOdds,
    Multicalibration,
)


@pytest.mark.filterwarnings("ignore::trustml.warnings.TrustmlWarning")
@pytest.mark.parametrize("folds", [None, 3])
@pytest.mark.parametrize("kind", WEIGHED)
def test_weights_reach_the_last_step_of_a_pipeline(kind, folds):
    X, y, s = sample(10, n=300)
    weights = np.random.default_rng(0).uniform(0.1, 5, 300)

    def answers(estimator):
        fair = kind(estimator, folds=folds)
        fair.fit(X, y, sensitive_features=s, sample_weight=weights)
        return fair.predict_proba(X, sensitive_features=s)

    wanted = answers(LogisticRegression())
    inner = make_pipeline(FunctionTransformer(), LogisticRegression())
    for pipeline in (inner, make_pipeline(FunctionTransformer(), inner)):
        np.testing.assert_allclose(answers(pipeline), wanted)
    unweighted = kind(LogisticRegression(), folds=folds).fit(X, y, sensitive_features=s)
    assert not np.allclose(unweighted.predict_proba(X, sensitive_features=s), wanted)
    with sklearn.config_context(enable_metadata_routing=True):
        asks = LogisticRegression().set_fit_request(sample_weight=True)
        np.testing.assert_allclose(answers(make_pipeline(FunctionTransformer(), asks)), wanted)
    for none in (
        KNeighborsClassifier(),
        make_pipeline(FunctionTransformer(), KNeighborsClassifier()),
    ):
        with pytest.raises(ValueError, match="fit of KNeighborsClassifier takes none"):
            answers(none)


def test_labels_of_any_kind_and_either_favoured():
    X, y, s = sample(5)
    words = np.where(y == 1, "good", "bad")
    plain = ThresholdOptimizer(LogisticRegression()).fit(X, y, sensitive_features=s)
    named = ThresholdOptimizer(LogisticRegression()).fit(X, words, sensitive_features=s)
    assert named.classes_.tolist() == ["bad", "good"]
    decided = named.predict(X, sensitive_features=s)
    np.testing.assert_array_equal(decided == "good", plain.predict(X, sensitive_features=s) == 1)
    other = ThresholdOptimizer(
        LogisticRegression(), constraints="equal_opportunity", pos_label="bad"
    ).fit(X, words, sensitive_features=s)
    p = other.predict_proba(X, sensitive_features=s)[:, 0]
    rates = [p[(s == g) & (words == "bad")].mean() for g in (0, 1)]
    assert rates[0] == pytest.approx(rates[1], abs=1e-9)


def test_scores_that_the_learner_did_not_see():
    X, y, s = sample(6, n=400)
    tree = DecisionTreeClassifier(random_state=0)
    by_heart = r"curve 1.0000\).*by heart"
    with (
        pytest.warns(TrustmlWarning, match=f"{by_heart}.*pass folds=5") as caught,
        pytest.warns(TrustmlWarning, match="unmitigated"),
    ):
        known = ThresholdOptimizer(tree, tolerance=0.5).fit(X, y, sensitive_features=s)
    assert {w.filename for w in caught} == {__file__}
    fitted = DecisionTreeClassifier(random_state=0).fit(X, y)
    with (
        pytest.warns(TrustmlWarning, match=f"{by_heart}.*was not trained on"),
        pytest.warns(TrustmlWarning, match="unmitigated"),
    ):
        ThresholdOptimizer(fitted, prefit=True).fit(X, y, sensitive_features=s)
    assert known.objective_value_ == 1.0  # it knows its rows by heart
    held = ThresholdOptimizer(tree, folds=4).fit(X, y, sensitive_features=s)
    assert held.objective_value_ < 0.9


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("constraints", ["equal_opportunity", "equalized_odds"])
def test_a_group_without_such_labels_is_left_out_of_the_comparison(constraints, deterministic):
    X, y, s = sample(8, n=300, n_groups=3)
    y = np.where(s == 0, 0, y)
    fair = ThresholdOptimizer(
        Column(), constraints=constraints, tolerance=0.1, deterministic=deterministic
    )
    with pytest.warns(SmallGroupWarning, match=r"groups \[0\] is undefined"):
        fair.fit(X, y, sensitive_features=s)
    for name, values in fair.expected_rates_.items():
        assert np.isnan(values[0]) == (name == "true_positive_rate")
        known = [v for v in values.values() if v == v]
        assert max(known) - min(known) <= 0.1 + 1e-9


def test_bad_input():
    X, y, s = sample(7)
    with pytest.raises(ValueError, match="constraints must be one of"):
        ThresholdOptimizer(Column(), constraints="calibration").fit(X, y, sensitive_features=s)
    with pytest.raises(ValueError, match="objective must be one of"):
        ThresholdOptimizer(Column(), objective="f1").fit(X, y, sensitive_features=s)
    with pytest.raises(ValueError, match="tolerance must be in"):
        ThresholdOptimizer(Column(), tolerance=-1).fit(X, y, sensitive_features=s)
    with pytest.raises(ValueError, match="is undefined"):
        ThresholdOptimizer(Column()).fit(X, np.where(s == 0, 0, y), sensitive_features=s)
    fair = ThresholdOptimizer(Column()).fit(X, y, sensitive_features=s)
    with pytest.raises(ValueError, match="did not occur in fit"):
        fair.predict(X[:1], sensitive_features=[5])
    with pytest.raises(TypeError, match="sensitive_features"):
        fair.predict(X)
    with pytest.raises(ValueError, match="the model that is corrected knows"):
        ThresholdOptimizer(Column().fit(X, y), prefit=True).fit(X, y + 3, sensitive_features=s)

    class Silent(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            self.classes_ = np.unique(y)
            return self

    with pytest.raises(TypeError, match="needs an estimator with"):
        ThresholdOptimizer(Silent()).fit(X, y, sensitive_features=s)


def test_groups_reach_every_fold_by_routing():
    X, y, s = sample(9, n=300)
    with sklearn.config_context(enable_metadata_routing=True):
        fair = ThresholdOptimizer(LogisticRegression()).set_fit_request(sensitive_features=True)
        fair.set_score_request(sensitive_features=True)
        found = cross_val_score(fair, X, y, cv=3, params={"sensitive_features": s})
    naive = []
    for train, test in StratifiedKFold(3).split(X, y):
        one = ThresholdOptimizer(LogisticRegression())
        one.fit(X[train], y[train], sensitive_features=s[train])
        naive.append(one.score(X[test], y[test], sensitive_features=s[test]))
    np.testing.assert_allclose(found, naive)
