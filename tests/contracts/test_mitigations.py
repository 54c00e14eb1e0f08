"""What every mitigation of ``trustml.fairness`` promises, whatever it does."""

import functools
import inspect
import warnings

import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import ClassifierMixin, RegressorMixin, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from trustml import fairness
from trustml.core.random import row_uniforms
from trustml.core.validation import to_numpy
from trustml.model import Model, wrap
from trustml.warnings import SmallGroupWarning, TrustmlWarning


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


MIXINS = (ClassifierMixin, RegressorMixin, TransformerMixin)
ESTIMATORS = [
    thing
    for thing in (getattr(fairness, name) for name in fairness.__all__)
    if inspect.isclass(thing) and issubclass(thing, MIXINS)
]
TESTED_IN_PIPELINES = [fairness.ThresholdOptimizer, fairness.GridSearch]
CLASSIFIERS = [kind for kind in ESTIMATORS if issubclass(kind, ClassifierMixin)]
TRANSFORMERS = [kind for kind in ESTIMATORS if issubclass(kind, TransformerMixin)]
# What correlates with a sensitive number can be removed without groups.
MEASURED = [kind for kind in TRANSFORMERS if kind.__name__ == "CorrelationRemover"]
# Without chance, defined on few rows, and quick.
CHECKED = {
    "deterministic": True,
    "constraints": "demographic_parity",
    "grid_size": 5,
    "max_epochs": 12,
    "learning_rate": 0.05,
    "hidden": (4,),
}
# Estimator -> {check of scikit-learn: why it does not apply}.
EXPECTED_FAILURES = {}

# Their aim is the score, not the gap between decisions.
CORRECT_SCORES = {"CalibratedEqualizedOdds", "Multicalibration"}


def built(kind, **given):
    inner = LinearRegression() if issubclass(kind, RegressorMixin) else LogisticRegression()
    given = {"estimator": inner, "random_state": 0, **given}
    taken = inspect.signature(kind.__init__).parameters
    return kind(**{name: value for name, value in given.items() if name in taken})


def fitted(kind, X=X, y=Y, s=S, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustmlWarning)
        return built(kind).fit(X, y, sensitive_features=s, **more)


@functools.cache
def fitted_once(kind):
    return fitted(kind)


def ask(estimator, name, X, s):
    """Call a method, with the groups if it wants them."""
    method = getattr(estimator, name)
    wants = "sensitive_features" in inspect.signature(method).parameters
    return method(X, sensitive_features=s) if wants else method(X)


def answers(estimator, X, s):
    names = ("predict", "predict_proba", "transform")
    return {name: ask(estimator, name, X, s) for name in names if hasattr(estimator, name)}


def with_groups(kind):
    """The same estimator, with groups hashed from the rows where none are given."""

    def groups_of(X, name, sample_weight):
        u, weight = row_uniforms(to_numpy(X), 0), np.asarray(sample_weight)
        if len(np.unique(u)) < 2 and name.startswith("fit"):
            return np.arange(len(u)) % 2
        if name != "fit" or issubclass(kind, TransformerMixin):
            return u > 0.5
        # The same cut, whichever rows are repeated or weigh nothing.
        there = weight > 0 if weight.shape == u.shape else np.ones(len(u), bool)
        return u > np.median(np.unique(u[there])[:-1])

    def supplied(name):
        method = getattr(kind, name)

        @functools.wraps(method)
        def call(self, X, y=None, *args, sensitive_features=None, **more):
            if sensitive_features is None:
                sensitive_features = groups_of(X, name, more.get("sample_weight"))
            args = (y, *args) if "y" in inspect.signature(method).parameters else args
            return method(self, X, *args, sensitive_features=sensitive_features, **more)

        return call

    names = ("fit", "fit_transform", "predict", "predict_proba", "transform", "score")
    methods = {
        name: supplied(name)
        for name in names
        if hasattr(kind, name)
        and "sensitive_features" in inspect.signature(getattr(kind, name)).parameters
    }
    # A name in this module, so that it can be pickled.
    made = type(f"{kind.__name__}WithGroups", (kind,), {**methods, "__module__": __name__})
    return globals().setdefault(made.__name__, made)


@pytest.mark.parametrize("kind", ESTIMATORS)
class TestEstimator:
    def test_scikit_learns_own_checks_pass(self, kind):
        subclass = with_groups(kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_estimator(
                built(subclass, **CHECKED),
                expected_failed_checks=EXPECTED_FAILURES.get(kind.__name__),
            )

    def test_a_clone_has_the_parameters_and_is_not_fitted(self, kind):
        estimator = fitted_once(kind)
        copy = clone(estimator)
        assert copy.get_params().keys() == estimator.get_params().keys()
        with pytest.raises(NotFittedError):
            answers(copy, X, S)

    def test_sensitive_features_are_required_by_name(self, kind):
        wanted = rf"{kind.__name__}.*sensitive_features"
        with pytest.raises(TypeError, match=wanted):
            built(kind).fit(X, Y)
        with pytest.raises(TypeError):
            built(kind).fit(X, Y, S)
        with pytest.raises(TypeError, match="sensitive_features"):
            built(kind).fit(X, Y, sensitive_features=None)

    def test_inputs_and_global_random_states_are_left_alone(self, kind):
        before = X.copy(), Y.copy(), S.copy()
        state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        answers(fitted(kind), X, S)
        for now, then in zip((X, Y, S), before, strict=True):
            np.testing.assert_array_equal(now, then)
        np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), torch_state)

    def test_a_second_fit_forgets(self, kind):
        estimator = built(kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrustmlWarning)
            estimator.fit(X[::2], 1 - Y[::2], sensitive_features=S[1::2])
            estimator.fit(X, Y, sensitive_features=S)
        fresh = answers(fitted_once(kind), X, S)
        for name, answer in answers(estimator, X, S).items():
            np.testing.assert_array_equal(answer, fresh[name])

    def test_a_row_is_answered_the_same_in_any_batch(self, kind):
        estimator = fitted_once(kind)
        whole = answers(estimator, X[:40], S[:40])
        for order in (np.arange(40)[::-1], np.array([3, 0])):
            for name, answer in answers(estimator, X[order], S[order]).items():
                np.testing.assert_allclose(
                    *(np.asarray(a) == "x" if a.dtype.kind in "OSU" else a
                      for a in (answer, whole[name][order])), rtol=1e-6, atol=1e-9
                )  # fmt: skip

    def test_frames_are_answered_as_arrays(self, kind):
        pd = pytest.importorskip("pandas")
        frame = pd.DataFrame(X, columns=["a", "b"])
        estimator = fitted(kind, frame, pd.Series(Y), pd.Series(S, name="group"))
        assert estimator.feature_names_in_.tolist() == ["a", "b"]
        plain = answers(fitted_once(kind), X, S)
        for name, answer in answers(estimator, frame, pd.Series(S, name="group")).items():
            np.testing.assert_allclose(np.asarray(answer), plain[name], rtol=1e-6)

    @pytest.mark.parametrize(
        ("groups", "message"),
        [
            (np.zeros(600), "one group only"),
            (S[:-1], "one row for each"),
            (np.where(np.arange(600) == 7, np.nan, 1.0), "missing values"),
            (np.linspace(0, 1, 600), "bin it"),
        ],
    )
    def test_bad_groups_name_the_fix(self, kind, groups, message):
        if kind in MEASURED and message in {"one group only", "bin it"}:
            pytest.skip("takes sensitive columns that are numbers")
        with pytest.raises(ValueError, match=message):
            built(kind).fit(X, Y, sensitive_features=groups)


def asked_by_group():
    ways = [
        (kind, name)
        for kind in (*ESTIMATORS, fairness.Reweighing)
        for name in ("predict", "predict_proba", "transform", "sample_weight")
        if "sensitive_features" in inspect.signature(getattr(kind, name, len)).parameters
    ]
    return pytest.mark.parametrize(
        ("kind", "method"), ways, ids=[f"{kind.__name__}-{name}" for kind, name in ways]
    )


@asked_by_group()
def test_sensitive_columns_are_known_by_their_names(kind, method):
    pd = pytest.importorskip("pandas")
    other = np.random.default_rng(2).choice(["f", "m"], 600)
    A = pd.DataFrame({"sex": S, "parent": other})
    estimator = fitted(kind, s=A)
    ask_ = functools.partial(getattr(estimator, method), Y if method == "sample_weight" else X)
    said = ask_(sensitive_features=A)
    by_position = ask_(sensitive_features=A[["parent", "sex"]].to_numpy())
    assert not np.array_equal(by_position, said)
    for same in (A[["parent", "sex"]], {"parent": other, "sex": S}, A.to_numpy()):
        np.testing.assert_array_equal(ask_(sensitive_features=same), said)
    with pytest.raises(ValueError, match=r"saw the sensitive columns sex, parent, got sex, age"):
        ask_(sensitive_features=A.rename(columns={"parent": "age"}))
    with pytest.raises(ValueError, match="saw the sensitive columns"):
        ask_(sensitive_features=A[["sex"]])


@asked_by_group()
def test_missing_groups_name_the_public_class_and_the_method(kind, method):
    with pytest.raises(TypeError, match=rf"^{kind.__name__}.{method} needs sensitive_features="):
        getattr(fitted_once(kind), method)(Y if method == "sample_weight" else X)


@pytest.mark.parametrize("kind", TESTED_IN_PIPELINES)
def test_a_pipeline_without_routing_is_told_how(kind):
    with pytest.raises(
        TypeError, match=rf"^{kind.__name__}.fit needs .*metadata_routing=True"
    ) as e:
        make_pipeline(StandardScaler(), built(kind)).fit(X, Y)
    with sklearn.config_context(enable_metadata_routing=True):
        assert ".set_fit_request(sensitive_features=True)" in str(e.value)
        asks = built(kind).set_fit_request(sensitive_features=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrustmlWarning)
            make_pipeline(StandardScaler(), asks).fit(X, Y, sensitive_features=S)


@asked_by_group()
def test_a_name_may_be_missing_on_either_side(kind, method):
    pd = pytest.importorskip("pandas")
    rows = Y if method == "sample_weight" else X
    for seen, later in ((S, pd.Series(S, name="sex")), (pd.Series(S, name="sex"), S)):
        estimator = fitted(kind, s=seen)
        np.testing.assert_array_equal(
            getattr(estimator, method)(rows, sensitive_features=later),
            getattr(estimator, method)(rows, sensitive_features=seen),
        )


@pytest.mark.parametrize("kind", CLASSIFIERS)
class TestClassifier:
    def test_answers_have_their_shapes(self, kind):
        estimator = built(kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrustmlWarning)
            assert estimator.fit(X, Y, sensitive_features=S) is estimator
        p = ask(estimator, "predict_proba", X, S)
        assert p.shape == (600, 2)
        assert (p >= 0).all()
        np.testing.assert_allclose(p.sum(1), 1)
        assert estimator.n_features_in_ == 2
        np.testing.assert_array_equal(estimator.classes_, [0, 1])
        assert set(ask(estimator, "predict", X, S)) <= {0, 1}

    def test_labels_of_any_kind(self, kind):
        plain = fitted_once(kind)
        named = fitted(kind, y=np.array(["deny", "grant"])[Y])
        np.testing.assert_array_equal(named.classes_, ["deny", "grant"])
        np.testing.assert_array_equal(
            ask(named, "predict", X, S), np.array(["deny", "grant"])[ask(plain, "predict", X, S)]
        )
        np.testing.assert_allclose(
            ask(named, "predict_proba", X, S), ask(plain, "predict_proba", X, S)
        )

    def test_the_gap_falls_and_the_model_stays_of_use(self, kind):
        if kind.__name__ in CORRECT_SCORES:
            pytest.skip("corrects scores, which need not close gaps between decisions")
        decided = ask(fitted_once(kind), "predict", X, S)
        plain = LogisticRegression().fit(X, Y).predict(X)
        base = max((Y == 0).mean(), (Y == 1).mean())
        assert (decided == Y).mean() > base + ((plain == Y).mean() - base) / 3
        gaps = [
            difference(Y, predicted, sensitive_features=S)
            for predicted in (decided, plain)
            for difference in (
                fairness.demographic_parity_difference,
                fairness.equalized_odds_difference,
            )
        ]
        assert gaps[0] < 0.75 * gaps[2] or gaps[1] < 0.75 * gaps[3]

    def test_small_groups_are_named_once(self, kind):
        small = S.copy()
        small[np.flatnonzero(S == "f")[-12:]] = "x"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            built(kind).fit(X, Y, sensitive_features=small)
        told = [w for w in caught if issubclass(w.category, SmallGroupWarning)]
        assert [w.filename for w in told] == [__file__]
        assert "{'x': 12}" in str(told[0].message)

    def test_only_two_labels_are_taken(self, kind):
        with pytest.raises(ValueError, match="binary"):
            built(kind).fit(X, np.arange(600) % 3, sensitive_features=S)


@pytest.mark.parametrize("kind", TRANSFORMERS)
class TestTransformer:
    def test_rows_stay_rows(self, kind):
        moved = ask(fitted_once(kind), "transform", X, S)
        assert len(moved) == 600
        assert np.isfinite(np.asarray(moved, dtype=float)).all()
        assert not np.array_equal(moved, X)


def test_classifiers_are_under_contract():
    names = {kind.__name__ for kind in CLASSIFIERS}
    assert names >= {"ExponentiatedGradient", "GridSearch"}
