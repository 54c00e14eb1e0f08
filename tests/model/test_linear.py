"""Linear estimators: same outputs, and the objective's gradient vanishes at the fit."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import (
    ElasticNet,
    GammaRegressor,
    HuberRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    RidgeClassifierCV,
    RidgeCV,
    SGDClassifier,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.svm import LinearSVC

from trustml.model import wrap

TIGHT = {"tol": 1e-11, "max_iter": 20_000}

BINARY = {
    "logistic": LogisticRegression(**TIGHT),
    "logistic C": LogisticRegression(C=0.05, **TIGHT),
    "logistic newton": LogisticRegression(solver="newton-cholesky", tol=1e-12),
    "logistic no intercept": LogisticRegression(fit_intercept=False, **TIGHT),
    "logistic unpenalised": LogisticRegression(C=np.inf, **TIGHT),
    "logistic balanced": LogisticRegression(class_weight="balanced", **TIGHT),
    "logistic weights": LogisticRegression(class_weight={0: 3.0, 1: 0.5}, **TIGHT),
    "liblinear": LogisticRegression(solver="liblinear", **TIGHT),
    "liblinear scaled": LogisticRegression(solver="liblinear", intercept_scaling=3.0, **TIGHT),
    "liblinear weights": LogisticRegression(
        solver="liblinear", class_weight={0: 1.0, 1: 5.0}, **TIGHT
    ),
    "cv": LogisticRegressionCV(
        Cs=[0.1, 1.0],
        l1_ratios=(0,),
        use_legacy_attributes=False,
        scoring="accuracy",
        cv=3,
        **TIGHT,
    ),
    "svm": LinearSVC(dual=False, **TIGHT),
    "svm scaled": LinearSVC(dual=False, C=0.3, intercept_scaling=2.0, **TIGHT),
    "ridge": RidgeClassifier(2.0),
    "ridge balanced": RidgeClassifier(class_weight="balanced"),
    "ridge cv": RidgeClassifierCV([0.5, 2.0]),
}
MULTICLASS = {
    "logistic": LogisticRegression(**TIGHT),
    "logistic C": LogisticRegression(C=0.01, **TIGHT),
    "logistic balanced": LogisticRegression(class_weight="balanced", **TIGHT),
    "logistic weights": LogisticRegression(class_weight={0: 1.0, 2: 4.0}, **TIGHT),
    "svm": LinearSVC(dual=False, **TIGHT),
    "svm weights": LinearSVC(dual=False, class_weight={1: 2.0}, **TIGHT),
    "ridge": RidgeClassifier(),
}
REGRESSION = {
    "least squares": LinearRegression(),
    "no intercept": LinearRegression(fit_intercept=False),
    "ridge": Ridge(3.0),
    "ridge svd": Ridge(0.1, solver="svd"),
    "ridge cv": RidgeCV([0.1, 1.0, 10.0]),
    "poisson": PoissonRegressor(alpha=0.1, tol=1e-10, max_iter=5000, solver="newton-cholesky"),
    "normal": TweedieRegressor(power=0, alpha=0.1, tol=1e-10, solver="newton-cholesky"),
}


def stationary(model):
    gradient = model.objective.gradient()
    per_row = model.objective.per_example_gradients().norm(dim=1).mean()
    return float(gradient.norm() / per_row)


@pytest.mark.parametrize("name", BINARY)
def test_binary(name, cancer):
    X, y = cancer
    estimator = BINARY[name].fit(X, y)
    model = wrap(estimator, train=(X, y))
    decision = estimator.decision_function(X)
    np.testing.assert_allclose(model.logits(X), np.c_[0 * decision, decision], atol=1e-6)
    if hasattr(estimator, "predict_proba"):
        np.testing.assert_allclose(model.predict_proba(X), estimator.predict_proba(X), atol=1e-6)
    np.testing.assert_array_equal(model.predict(X), estimator.predict(X))
    assert stationary(model) < 1e-6


@pytest.mark.filterwarnings("ignore::FutureWarning")  # defaults that scikit-learn 1.8 announces
def test_cross_validated_with_the_defaults(cancer):
    X, y = cancer
    estimator = LogisticRegressionCV(Cs=[0.1], cv=3, **TIGHT).fit(X, y)
    assert stationary(wrap(estimator, train=(X, y))) < 1e-6


@pytest.mark.parametrize("name", MULTICLASS)
def test_multiclass(name, iris):
    X, y = iris
    estimator = MULTICLASS[name].fit(X, y)
    model = wrap(estimator, train=(X, y))
    np.testing.assert_allclose(model.logits(X), estimator.decision_function(X), atol=1e-6)
    if hasattr(estimator, "predict_proba"):
        np.testing.assert_allclose(model.predict_proba(X), estimator.predict_proba(X), atol=1e-6)
    np.testing.assert_array_equal(model.predict(X), estimator.predict(X))
    assert stationary(model) < 1e-6


@pytest.mark.parametrize("name", REGRESSION)
def test_regression(name, diabetes):
    X, y = diabetes
    estimator = REGRESSION[name].fit(X, y)
    model = wrap(estimator, train=(X, y))
    np.testing.assert_allclose(model.predict(X), estimator.predict(X), rtol=1e-6)
    assert model.predict(X).shape == (len(X),)
    assert stationary(model) < 1e-6


def test_several_targets(diabetes):
    X, y = diabetes
    Y = np.c_[y, np.sqrt(y)]
    estimator = Ridge(2.0).fit(X, Y)
    model = wrap(estimator, train=(X, Y))
    np.testing.assert_allclose(model.predict(X), estimator.predict(X), rtol=1e-6)
    assert model.n_outputs == 2
    assert stationary(model) < 1e-10


def test_stated_weight_decay(cancer, diabetes):
    X, y = cancer
    logistic = wrap(LogisticRegression(C=0.5).fit(X, y), train=(X, y))
    assert logistic.weight_decay == pytest.approx({"linear.weight": 1 / (0.5 * len(X))})
    X, y = diabetes
    ridge = wrap(Ridge(3.0).fit(X, y), train=(X, y))
    assert ridge.weight_decay == pytest.approx({"linear.weight": 2 * 3.0 / len(X)})
    free = wrap(LinearRegression().fit(X, y), train=(X, y))
    assert free.weight_decay == {"linear.weight": 0.0}


def test_liblinear_penalises_its_intercept(cancer):
    X, y = cancer
    estimator = LogisticRegression(solver="liblinear", intercept_scaling=2.0).fit(X, y)
    decay = wrap(estimator, train=(X, y)).weight_decay
    assert decay["linear.bias"] == pytest.approx(decay["linear.weight"] / 4)


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(solver="liblinear", l1_ratio=1),
        LogisticRegression(solver="saga", l1_ratio=0.5, max_iter=20, tol=1.0),
        LinearSVC(penalty="l1", dual=False),
        LinearSVC(loss="hinge", max_iter=100_000),
        SGDClassifier(loss="hinge", random_state=0),
        LinearDiscriminantAnalysis(),
    ],
    ids=repr,
)
def test_other_objectives_give_outputs_but_refuse_the_objective(estimator, cancer):
    X, y = cancer
    estimator.fit(X, y)
    model = wrap(estimator, train=(X, y))
    decision = estimator.decision_function(X)
    np.testing.assert_allclose(model.logits(X)[:, 1], decision, atol=1e-6)
    for ask in (lambda: model.objective, lambda: model.weight_decay):
        with pytest.raises(TypeError, match=type(estimator).__name__):
            ask()


@pytest.mark.parametrize(
    "estimator",
    [
        Lasso(0.01),
        ElasticNet(0.01),
        HuberRegressor(),
        GammaRegressor(),
        TweedieRegressor(power=1.5),
        Ridge(positive=True),
        Ridge([0.1, 2.0]),
    ],
    ids=repr,
)
def test_regressors_of_other_objectives(estimator, diabetes):
    X, y = diabetes
    Y = np.c_[y, 2 * y] if np.ndim(getattr(estimator, "alpha", 0)) else y
    estimator.fit(X, Y)
    model = wrap(estimator, train=(X, Y))
    np.testing.assert_allclose(model.predict(X), estimator.predict(X), rtol=1e-6)
    with pytest.raises(TypeError, match="not available"):
        _ = model.objective


def test_own_loss_and_decay_make_an_objective(cancer):
    X, y = cancer
    estimator = LogisticRegression(solver="liblinear", l1_ratio=1).fit(X, y)
    model = wrap(estimator, train=(X, y), loss=torch.nn.BCEWithLogitsLoss(), weight_decay=0.1)
    assert model.weight_decay == 0.1
    assert model.objective.n == len(X)


@pytest.mark.parametrize("loss", ["log_loss", "squared_hinge"])
def test_sgd_classifier_outputs_and_decay(loss, cancer):
    X, y = cancer
    estimator = SGDClassifier(
        loss=loss,
        alpha=0.1,
        learning_rate="invscaling",
        eta0=0.05,
        average=20_000,
        max_iter=500,
        tol=None,
        random_state=0,
    ).fit(X, y)
    model = wrap(estimator, train=(X, y))
    np.testing.assert_allclose(model.logits(X)[:, 1], estimator.decision_function(X), atol=1e-6)
    assert model.weight_decay == {"linear.weight": 0.1}
    assert stationary(model) < 0.05  # averaged SGD comes near


def test_sgd_regressor_is_near_its_ridge(diabetes):
    X, y = diabetes
    estimator = SGDRegressor(alpha=0.1, average=True, max_iter=2000, tol=None, random_state=0)
    model = wrap(estimator.fit(X, y), train=(X, y))
    assert model.weight_decay == {"linear.weight": 0.2}
    assert stationary(model) < 0.05


@pytest.mark.parametrize("loss", ["log_loss", "modified_huber"])
def test_sgd_with_other_probabilities_only_predicts(loss, iris):
    X, y = iris
    y = y if loss == "log_loss" else y > 0
    estimator = SGDClassifier(loss=loss, random_state=0).fit(X, y)
    model = wrap(estimator, train=(X, y))
    assert not model.differentiable  # its probabilities are no softmax of its outputs
    np.testing.assert_allclose(model.predict_proba(X), estimator.predict_proba(X))


def test_poisson_predicts_means_and_has_log_rates(diabetes):
    X, y = diabetes
    estimator = PoissonRegressor().fit(X, y)
    model = wrap(estimator, train=(X, y))
    rates = model.outputs(model.inputs(X))
    np.testing.assert_allclose(model.values_of(rates).detach().numpy(), estimator.predict(X))
    np.testing.assert_allclose(rates.exp().detach().numpy()[:, 0], estimator.predict(X))


def test_features_of_a_linear_model_are_its_inputs(iris):
    X, y = iris
    model = wrap(LogisticRegression().fit(X, y), train=(X, y))
    np.testing.assert_array_equal(model.features(X), X)
    weight, bias = model.head
    np.testing.assert_allclose(X @ weight.numpy().T + bias.numpy(), model.logits(X))


def test_without_train_there_is_no_objective(iris):
    X, y = iris
    model = wrap(LogisticRegression().fit(X, y))
    assert model.train is None
    np.testing.assert_array_equal(model.predict(X), model.estimator.predict(X))
    with pytest.raises(ValueError, match="train="):
        _ = model.objective
    with pytest.raises(ValueError, match="train="):
        _ = model.weight_decay


def test_class_weights_by_name(cancer):
    X, y = cancer
    names = np.array(["ill", "well"])[y]
    estimator = LogisticRegression(class_weight={"ill": 4.0}, **TIGHT).fit(X, names)
    model = wrap(estimator, train=(X, names))
    assert stationary(model) < 1e-6
    plain = wrap(LogisticRegression(**TIGHT).fit(X, names)).replace(
        model.objective.space, model.objective.space.vector()
    )
    np.testing.assert_allclose(
        model.loss(X, names), plain.loss(X, names) * np.where(names == "ill", 4.0, 1.0)
    )
