"""Many mitigations on the same splits: what is measured, who is best, who failed."""

import pickle

import numpy as np
import pytest
import sklearn
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from trustml.fairness import (
    demographic_parity_difference,
    equalized_odds_difference,
    frontier,
)
from trustml.fairness._frontier import _Measure, _run
from trustml.fairness._groups import as_groups
from trustml.warnings import TrustmlWarning


def sample(n=600, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.choice(["f", "m"], n)
    X = np.column_stack([rng.normal(size=n) + (s == "m"), rng.normal(size=n)])
    y = (X.sum(1) + rng.logistic(size=n) > 0.5).astype(int)
    return X, y, s


X, Y, S = sample()


class PerGroup(ClassifierMixin, BaseEstimator):
    """Thresholds that select the same share of each group: needs the groups twice."""

    def fit(self, X, y, *, sensitive_features):
        self.inner_ = LogisticRegression().fit(X, y)
        self.classes_ = self.inner_.classes_
        score = self.inner_.decision_function(X)
        self.cut_ = {g: np.median(score[sensitive_features == g]) for g in ("f", "m")}
        return self

    def predict(self, X, *, sensitive_features):
        cut = np.array([self.cut_[g] for g in sensitive_features])
        return self.classes_[(self.inner_.decision_function(X) > cut).astype(int)]


class Loud(LogisticRegression):
    def fit(self, X, y, sensitive_features=None):
        import warnings

        warnings.warn(f"nothing was mitigated: {X.mean():.3f}", TrustmlWarning, stacklevel=2)
        return super().fit(X, y)


class Broken(DummyClassifier):
    def fit(self, X, y):
        raise ArithmeticError("no luck")


def test_numbers_are_those_of_the_metrics_on_the_stated_splits():
    found = frontier(
        {"plain": LogisticRegression(), "per group": PerGroup()},
        X, Y, sensitive_features=S, criterion="demographic_parity", seeds=[3, 8], test_size=0.25,
    )  # fmt: skip
    cell = 2 * (S == "m") + Y
    for j, seed in enumerate((3, 8)):
        train, test = map(
            np.sort,
            train_test_split(np.arange(600), test_size=0.25, random_state=seed, stratify=cell),
        )
        plain = LogisticRegression().fit(X[train], Y[train]).predict(X[test])
        own = PerGroup().fit(X[train], Y[train], sensitive_features=S[train])
        for i, p in enumerate([plain, own.predict(X[test], sensitive_features=S[test])]):
            assert found.accuracy[i, j] == np.mean(p == Y[test])
            dp = demographic_parity_difference(Y[test], p, sensitive_features=S[test])
            eo = equalized_odds_difference(Y[test], p, sensitive_features=S[test])
            np.testing.assert_allclose(
                [found.gap[i, j], found.demographic_parity[i, j], found.equalized_odds[i, j]],
                [dp, dp, eo],
                atol=1e-12,
            )
    columns = found._columns()
    assert {"demographic_parity", "equalized_odds", "accuracy"} <= set(columns)
    assert "per group" in repr(found)


def test_kinds_of_labels_and_groups_change_nothing():
    words = np.array(["no", "yes"])
    settings = {"sensitive_features": S, "seeds": 2}
    made = {"tree": DecisionTreeClassifier(max_depth=4), "plain": LogisticRegression()}
    one = frontier(made, X, Y, **settings)
    other = frontier(made, X, words[Y], **settings)
    np.testing.assert_array_equal(one.gap, other.gap)
    rows = frontier(made, X.tolist(), Y, sensitive_features={"sex": list(S)}, seeds=2)
    np.testing.assert_array_equal(one.gap, rows.gap)
    assert made["tree"].random_state is None
    assert not hasattr(made["plain"], "coef_")


def test_a_job_can_go_to_another_process():
    groups = as_groups(S, len(S))
    part = np.arange(0, 600, 2), np.arange(1, 600, 2)
    job = (LogisticRegression(), X, Y, S, part, 0, _Measure("equalized_odds", None, groups, Y))
    run, sent = pickle.loads(pickle.dumps((_run, job)))
    assert run(*sent) == _run(*job)


def test_intervals_are_corrected_for_the_overlap_of_splits():
    found = frontier({"plain": LogisticRegression()}, X, Y, sensitive_features=S, seeds=4)
    for of in ("accuracy", "gap"):
        values = getattr(found, of)[0]
        half = stats.t(3).ppf(0.975) * values.std(ddof=1) * np.sqrt(1 / 4 + 0.3 / 0.7)
        expected = np.clip([values.mean() - half, values.mean() + half], 0, 1)
        np.testing.assert_allclose(found.ci(of)[0], expected, rtol=1e-12)
    single = frontier({"plain": LogisticRegression()}, X, Y, sensitive_features=S, seeds=1)
    assert np.isnan(single.ci()).all()


def test_who_is_on_the_frontier():
    found = frontier(
        {
            "plain": LogisticRegression(),
            "the same": LogisticRegression(),
            "constant": DummyClassifier(),
            "guess": DummyClassifier(strategy="stratified"),
        },
        X, Y, sensitive_features=S, seeds=3,
    )  # fmt: skip
    np.testing.assert_array_equal(found.pareto, [True, True, True, False])
    np.testing.assert_array_equal(found.pareto_share[:3], 1)
    assert found.pareto_share[3] < 1
    assert (found.gap[2] == 0).all()
    ax = found.plot()
    assert {t.get_text() for t in ax.texts} == {"plain, the same", "constant", "guess"}


def test_every_other_criterion_is_measured():
    made = {"plain": LogisticRegression()}
    for criterion in ("equal_opportunity", "predictive_equality", "predictive_parity"):
        found = frontier(made, X, Y, sensitive_features=S, criterion=criterion, seeds=1)
        assert 0 < found.gap[0, 0] <= 1
        assert criterion in repr(found)
    errors = frontier(made, X, Y, sensitive_features=S, criterion="error_parity", seeds=1)
    worst = frontier(made, X, Y, sensitive_features=S, criterion="worst_group", seeds=1)
    assert worst.gap[0, 0] >= 1 - worst.accuracy[0, 0] >= worst.gap[0, 0] - errors.gap[0, 0]


def test_failures_are_told_by_name_after_the_rest_has_run():
    made = {"broken": Broken(), "plain": LogisticRegression()}
    with pytest.raises(RuntimeError, match="broken failed: ArithmeticError: no luck"):
        frontier(made, X, Y, sensitive_features=S, seeds=2)
    with pytest.warns(TrustmlWarning, match="broken failed"):
        found = frontier(made, X, Y, sensitive_features=S, seeds=2, on_error="warn")
    assert list(found.errors) == ["broken"]
    assert np.isnan(found.gap[0]).all()
    np.testing.assert_array_equal(found.pareto, [False, True])
    with pytest.raises(RuntimeError, match="no luck"):
        frontier({"broken": Broken()}, X, Y, sensitive_features=S, seeds=2, on_error="warn")


def test_warnings_of_a_mitigation_come_through_with_its_name():
    with pytest.warns(TrustmlWarning, match="loud one: nothing was mitigated") as caught:
        frontier({"loud one": Loud()}, X, Y, sensitive_features=S, seeds=3)
    assert len([w for w in caught if "nothing" in str(w.message)]) == 1


def test_groups_reach_a_step_of_a_pipeline_by_metadata_routing():
    with sklearn.config_context(enable_metadata_routing=True):
        inner = PerGroup().set_fit_request(sensitive_features=True)
        inner.set_predict_request(sensitive_features=True)
        piped = make_pipeline(StandardScaler(), inner)
        plain = make_pipeline(StandardScaler(), LogisticRegression())
        found = frontier({"piped": piped, "plain": plain}, X, Y, sensitive_features=S, seeds=1)
    assert found.demographic_parity[0, 0] < found.demographic_parity[1, 0]


def test_bad_arguments_are_named():
    made = {"plain": LogisticRegression()}
    for wrong in ({}, [LogisticRegression()]):
        with pytest.raises(ValueError, match="dict of name -> estimator"):
            frontier(wrong, X, Y, sensitive_features=S)
    with pytest.raises(ValueError, match="two labels"):
        frontier(made, X, np.arange(600) % 3, sensitive_features=S)
    with pytest.raises(ValueError, match="criterion"):
        frontier(made, X, Y, sensitive_features=S, criterion="loss_parity")
    with pytest.raises(ValueError, match="seeds"):
        frontier(made, X, Y, sensitive_features=S, seeds=0)
    with pytest.raises(ValueError, match="test_size"):
        frontier(made, X, Y, sensitive_features=S, test_size=2)
