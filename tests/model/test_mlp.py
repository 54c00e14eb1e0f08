"""Perceptrons: same outputs for each activation; the penalty that training really had."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from trustml.model import wrap
from trustml.model.mlp import batch_penalty

LBFGS = {"solver": "lbfgs", "tol": 1e-15, "max_iter": 50_000, "max_fun": 500_000}


def fit(estimator, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(X, y)


def stationary(model):
    gradient = model.objective.gradient()
    return float(gradient.norm() / model.objective.per_example_gradients().norm(dim=1).mean())


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("layers", [(), (6,), (5, 4)])
def test_classifier_outputs(activation, layers, iris):
    X, y = iris
    estimator = MLPClassifier(layers, activation=activation, max_iter=15, random_state=0)
    model = wrap(fit(estimator, X, y), train=(X, y))
    np.testing.assert_allclose(model.predict_proba(X), estimator.predict_proba(X), atol=1e-6)
    np.testing.assert_array_equal(model.predict(X), estimator.predict(X))
    assert model.head_name == "output"
    assert model.features(X).shape == (len(X), layers[-1] if layers else X.shape[1])


@pytest.mark.parametrize("activation", ["logistic", "tanh"])
def test_lbfgs_classifier_is_stationary(activation, cancer, iris):
    for X, y in (cancer, iris):
        estimator = MLPClassifier((3,), activation=activation, alpha=1.0, random_state=0, **LBFGS)
        model = wrap(fit(estimator, X, y), train=(X, y))
        assert stationary(model) < 1e-3
        assert set(model.weight_decay.values()) == {1.0 / len(X)}
        assert set(model.weight_decay) == {"hidden0.weight", "output.weight"}


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_lbfgs_regressor_is_stationary(loss, diabetes):
    X, y = diabetes
    estimator = MLPRegressor(
        loss, hidden_layer_sizes=(3,), activation="tanh", alpha=1.0, random_state=0, **LBFGS
    )
    model = wrap(fit(estimator, X, y), train=(X, y))
    np.testing.assert_allclose(model.predict(X), estimator.predict(X), rtol=1e-6)
    factor = 2.0 if loss == "squared_error" else 1.0  # scikit-learn halves its squared error
    assert set(model.weight_decay.values()) == {factor / len(X)}
    assert stationary(model) < 1e-4


def test_several_targets_are_backpropagated_as_a_sum(diabetes):
    X, y = diabetes
    Y = np.c_[y, np.sin(y), np.cos(y)]
    # scikit-learn reports the mean over targets but follows the gradient of their sum, so
    # only a first-order solver with full batches settles: at the sum's optimum.
    estimator = MLPRegressor(
        hidden_layer_sizes=(),
        alpha=5.0,
        solver="adam",
        batch_size=len(X),
        random_state=0,
        learning_rate_init=0.02,
        max_iter=3000,
        tol=0.0,
        n_iter_no_change=4000,
    )
    model = wrap(fit(estimator, X, Y), train=(X, Y))
    np.testing.assert_allclose(model.predict(X), estimator.predict(X), rtol=1e-6)
    assert stationary(model) < 1e-3


def test_multilabel(iris):
    X, y = iris
    Y = np.c_[y == 0, y >= 1, X[:, 0] > 0].astype(int)
    estimator = MLPClassifier((4,), alpha=1.0, activation="tanh", random_state=0, **LBFGS)
    model = wrap(fit(estimator, X, Y), train=(X, Y))
    assert model.task == "multilabel"
    assert model.classes_ is None
    assert model.n_classes == 3
    np.testing.assert_allclose(model.predict_proba(X), estimator.predict_proba(X), atol=1e-6)
    np.testing.assert_array_equal(model.predict(X), estimator.predict(X))
    assert stationary(model) < 1e-4


def test_mini_batches_make_the_penalty_stronger():
    adam = MLPClassifier(alpha=0.1, batch_size=20)
    assert batch_penalty(adam, 100) == pytest.approx(0.1 / 20)
    assert batch_penalty(adam, 10) == pytest.approx(0.1 / 10)
    assert batch_penalty(adam, 50) == pytest.approx(0.1 * (2 / 20 + 1 / 10) / 3)
    assert batch_penalty(MLPClassifier(alpha=0.1), 1000) == pytest.approx(0.1 / 200)
    assert batch_penalty(MLPClassifier(alpha=0.1, solver="lbfgs"), 1000) == pytest.approx(1e-4)


def test_adam_settles_where_our_penalty_says(cancer):
    """With batches of 20 rows the fit is stationary for alpha/20, and far from it for alpha/n."""
    X, y = cancer
    estimator = MLPClassifier(
        (),
        alpha=2.0,
        batch_size=20,
        learning_rate_init=2e-4,
        max_iter=1500,
        tol=0.0,
        n_iter_no_change=2000,
        random_state=0,
    )
    model = wrap(fit(estimator, X, y), train=(X, y))
    wrong = wrap(estimator, train=(X, y), weight_decay={"weight": 2.0 / len(X)})
    assert stationary(model) < 0.02
    assert stationary(wrong) > 10 * stationary(model)


def test_float32_fit(iris):
    X, y = iris
    X = X.astype(np.float32)
    estimator = fit(MLPClassifier((4,), max_iter=10, random_state=0), X, y)
    model = wrap(estimator, train=(X, y))
    np.testing.assert_allclose(model.predict_proba(X), estimator.predict_proba(X), atol=1e-6)
