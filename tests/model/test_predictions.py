"""Models without gradients: everything that needs only predictions, and clear refusals."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from trustml.core.parameters import ParameterSpace
from trustml.model import wrap

CLASSIFIERS = [
    RandomForestClassifier(5, random_state=0),
    HistGradientBoostingClassifier(max_iter=3),
    KNeighborsClassifier(),
    DecisionTreeClassifier(max_depth=2),
    make_pipeline(StandardScaler(), KNeighborsClassifier()),
]


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=lambda e: type(e).__name__)
def test_classifiers(estimator, iris):
    X, y = iris
    names = np.array(["a", "b", "c"])[y]
    estimator.fit(X, names)
    model = wrap(estimator, train=(X, names))
    assert model.task == "classification"
    assert not model.differentiable
    np.testing.assert_array_equal(model.predict(X), estimator.predict(X))
    np.testing.assert_array_equal(model.predict_proba(X), estimator.predict_proba(X))
    np.testing.assert_allclose(np.exp(model.logits(X)), estimator.predict_proba(X), atol=1e-12)
    likelihood = estimator.predict_proba(X)[np.arange(len(X)), y].clip(1e-300)
    np.testing.assert_allclose(model.loss(X, names), -np.log(likelihood), atol=1e-9)
    assert model.n_classes == 3
    torch_out = model.predict_proba(torch.as_tensor(X))
    assert isinstance(torch_out, torch.Tensor)
    assert model.observe(X).features is None


def test_decision_function_is_logits(cancer):
    X, y = cancer
    estimator = SVC().fit(X, y)
    model = wrap(estimator, train=(X, y))
    np.testing.assert_allclose(model.logits(X)[:, 1], estimator.decision_function(X))
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)
    assert model.loss(X, y).shape == (len(X),)


@pytest.mark.parametrize("estimator", [RandomForestRegressor(5), KNeighborsRegressor()], ids=repr)
def test_regressors(estimator, diabetes):
    X, y = diabetes
    estimator.fit(X, y)
    model = wrap(estimator, train=(X, y))
    np.testing.assert_allclose(model.predict(X), estimator.predict(X))
    np.testing.assert_allclose(model.loss(X, y), (estimator.predict(X) - y) ** 2)
    with pytest.raises(TypeError, match="regression"):
        model.predict_proba(X)


def test_multilabel_forest(iris):
    X, y = iris
    Y = np.c_[y == 0, y > 0].astype(int)
    for estimator in (
        RandomForestClassifier(5, random_state=0),
        MultiOutputClassifier(KNeighborsClassifier()),
    ):
        estimator.fit(X, Y)
        model = wrap(estimator, train=(X, Y))
        assert model.task == "multilabel"
        expected = np.column_stack([p[:, 1] for p in estimator.predict_proba(X)])
        np.testing.assert_allclose(model.predict_proba(X), expected)
        np.testing.assert_array_equal(model.predict(X), estimator.predict(X))


def test_several_multiclass_outputs_are_refused(iris):
    X, y = iris
    estimator = RandomForestClassifier(2).fit(X, np.c_[y, y])
    with pytest.raises(TypeError, match="0/1"):
        wrap(estimator)


def test_missing_values_go_to_estimators_that_take_them(iris):
    X, y = iris
    X = X.copy()
    X[0, 0] = np.nan
    estimator = HistGradientBoostingClassifier(max_iter=2).fit(X, y)
    model = wrap(estimator, train=(X, y))
    np.testing.assert_array_equal(model.predict_proba(X), estimator.predict_proba(X))
    with pytest.raises(ValueError, match="NaN"):
        wrap(SVC().fit(X[1:], y[1:])).predict(X)


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.objective,
        lambda m: m.module,
        lambda m: m.features(np.zeros((2, 4))),
        lambda m: m.require_gradients("a method"),
        lambda m: m.continuous_inputs(np.zeros((2, 4)), "a method"),
        lambda m: m.replace(ParameterSpace(nn.Linear(2, 1)), torch.zeros(3)),
    ],
)
def test_gradient_needs_say_what_works(ask, iris):
    X, y = iris
    model = wrap(RandomForestClassifier(2).fit(X, y), train=(X, y))
    with pytest.raises(TypeError, match=r"SplitClassifier.*KernelShap"):
        ask(model)
    assert model.head is None


def test_callables(iris):
    X, y = iris
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    probabilities = wrap(forest.predict_proba, train=(X, y))
    np.testing.assert_array_equal(probabilities.predict_proba(X), forest.predict_proba(X))
    assert probabilities.task == "classification"
    logits = wrap(lambda X: X @ np.ones((4, 3)) + np.arange(3.0), task="classification")
    np.testing.assert_array_equal(logits.predict(X), np.full(len(X), 2))
    one = wrap(lambda X: X[:, 0], task="classification")
    np.testing.assert_allclose(one.logits(X), np.c_[0 * X[:, 0], X[:, 0]])
    values = wrap(lambda X: X.sum(1), task="regression")
    np.testing.assert_allclose(values.predict(X), X.sum(1))


def test_torch_callables_get_what_train_holds(iris):
    X, y = iris
    seen = []

    def network(x):
        seen.append(type(x))
        return torch.stack([x[:, 0], x[:, 1], x[:, 2]], dim=1)

    model = wrap(network, train=(torch.as_tensor(X), torch.as_tensor(y)))
    assert isinstance(model.predict(torch.as_tensor(X)), torch.Tensor)
    assert isinstance(model.predict(X), np.ndarray)
    assert set(seen) == {torch.Tensor}


def test_module_without_parameters_only_predicts(iris):
    X, _ = iris
    model = wrap(nn.Sequential(nn.Flatten(), nn.ReLU()).train(), task="classification")
    assert not model.differentiable
    np.testing.assert_allclose(model.logits(X), np.maximum(X, 0), atol=1e-6)
    assert model.estimator.training


def test_outputs_of_callables_are_checked(iris):
    X, _ = iris
    with pytest.raises(ValueError, match="NaN"):
        wrap(lambda X: np.full((len(X), 2), np.nan), task="classification").predict(X)
    with pytest.raises(ValueError, match="rows"):
        wrap(lambda X: np.zeros((3, 2)), task="classification").predict(X)
    drifting = wrap(lambda X: X, task="classification")
    drifting.predict(np.array([[0.5, 0.5]]))
    with pytest.raises(ValueError, match="probabilities"):
        drifting.predict(np.array([[3.0, 5.0]]))


def test_what_cannot_be_wrapped(iris):
    X, _ = iris
    with pytest.raises(TypeError, match="neither a classifier nor a regressor"):
        wrap(KMeans(2, n_init=1).fit(X))
    for nonsense in (3, None, "model.pkl", [1, 2]):
        with pytest.raises(TypeError, match="cannot wrap"):
            wrap(nonsense)
    with pytest.raises(TypeError, match="is a class"):
        wrap(RandomForestClassifier)

    class Bare(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            self.classes_ = np.unique(y)
            return self

        def predict(self, X):
            return np.zeros(len(X))

    with pytest.raises(TypeError, match="predict_proba nor decision_function"):
        wrap(Bare().fit(X, np.arange(len(X)) % 2))


@pytest.mark.parametrize("batch_size", [1, 7, 150, 1000])
def test_callables_are_asked_in_batches(batch_size, iris):
    X, _ = iris
    sizes = []

    def function(rows):
        sizes.append(len(rows))
        return rows[:, :3]

    model = wrap(function, task="classification", batch_size=batch_size)
    np.testing.assert_array_equal(model.logits(X), X[:, :3])
    assert max(sizes) <= batch_size
    assert sum(sizes) == len(X)
