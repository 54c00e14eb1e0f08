"""What every mitigation of ``trustml.fairness`` promises, whatever it does."""

import inspect

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from trustml import fairness
from trustml.model import Model, wrap


def problem(n=600, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.choice(["f", "m"], n)
    X = np.column_stack([rng.normal(size=n) + (s == "m"), rng.normal(size=n)])
    y = (X.sum(1) + rng.logistic(size=n) > 0.5).astype(int)
    return X, y, s


X, Y, S = problem()
T = slice(0, 300)
V = slice(300, 600)


def make(kind):
    parameters = inspect.signature(kind.__init__).parameters
    if "model" not in parameters:
        return kind()
    return kind(wrap(LogisticRegression().fit(X[T], Y[T]), train=(X[T], Y[T])))


def outcomes(mitigation):
    """Name -> what the fitted mitigation offers, as functions without arguments."""
    offered = {
        name: getattr(mitigation, name)
        for name in ("mitigate", "reweigh")
        if hasattr(mitigation, name)
    }
    if hasattr(mitigation, "sample_weight"):
        offered["sample_weight"] = lambda: mitigation.sample_weight(Y[V], sensitive_features=S[V])
    return offered


MITIGATIONS = [
    thing
    for thing in (getattr(fairness, name) for name in fairness.__all__)
    if inspect.isclass(thing)
    and hasattr(thing, "fit")
    and {"mitigate", "sample_weight"} & set(dir(thing))
]


def test_there_are_mitigations():
    assert {kind.__name__ for kind in MITIGATIONS} >= {"FairInfluence", "Reweighing"}


@pytest.mark.parametrize("kind", MITIGATIONS)
class TestMitigation:
    def test_fit_returns_itself_and_each_outcome_has_its_shape(self, kind):
        mitigation = make(kind)
        assert mitigation.fit(X[V], Y[V], sensitive_features=S[V]) is mitigation
        offered = outcomes(mitigation)
        assert offered
        for name, outcome in offered.items():
            result = outcome()
            if name == "mitigate":
                assert isinstance(result, Model)
                assert result.predict(X).shape == Y.shape
            else:
                assert isinstance(result, np.ndarray)
                assert result.shape == (300,)
                assert (result >= 0).all()

    def test_parameters_are_stored_untouched(self, kind):
        mitigation = make(kind)
        copy = clone(mitigation)
        assert copy.get_params().keys() == mitigation.get_params().keys()
        with pytest.raises(NotFittedError):
            next(iter(outcomes(copy).values()))()

    def test_sensitive_features_is_keyword_only(self, kind):
        with pytest.raises(TypeError):
            make(kind).fit(X[V], Y[V], S[V])

    def test_a_second_fit_forgets(self, kind):
        mitigation = make(kind).fit(X[V], Y[V], sensitive_features=S[V][::-1])
        fresh = make(kind).fit(X[V], Y[V], sensitive_features=S[V])
        mitigation.fit(X[V], Y[V], sensitive_features=S[V])
        for name, outcome in outcomes(mitigation).items():
            again = outcomes(fresh)[name]()
            if name == "mitigate":
                np.testing.assert_allclose(outcome().predict_proba(X), again.predict_proba(X))
            else:
                np.testing.assert_allclose(outcome(), again)

    def test_inputs_and_global_random_state_are_left_alone(self, kind):
        before = X.copy(), Y.copy(), S.copy()
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        for outcome in outcomes(make(kind).fit(X[V], Y[V], sensitive_features=S[V])).values():
            outcome()
        for now, then in zip((X, Y, S), before, strict=True):
            np.testing.assert_array_equal(now, then)
        np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002

    @pytest.mark.parametrize(
        ("groups", "message"),
        [
            (np.zeros(300), "one group only"),
            (S[V][:-1], "one row for each"),
            (np.where(np.arange(300) == 7, np.nan, 1.0), "missing values"),
            (np.linspace(0, 1, 300), "bin it"),
        ],
    )
    def test_bad_groups_name_the_fix(self, kind, groups, message):
        with pytest.raises(ValueError, match=message):
            make(kind).fit(X[V], Y[V], sensitive_features=groups)
