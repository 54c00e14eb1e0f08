"""Training anew on part of the rows: the regulariser beside the sum of losses is held."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import (
    Lasso,
    LassoCV,
    LogisticRegression,
    LogisticRegressionCV,
    PoissonRegressor,
    Ridge,
    RidgeCV,
)
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from trustml.model import Model, wrap

TIGHT = {"tol": 1e-11, "max_iter": 20_000}
KEPT = np.setdiff1d(np.arange(60), [3, 10, 11, 40])
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
LABELS = np.where(X[:, 0] + RNG.normal(size=60) > 0.5, "yes", "no")
VALUES = np.exp(X[:, 0] + 0.3 * RNG.normal(size=60))


def held_gradient(model, other):
    """Gradient of J - Σ_S ℓ_i/n of the first model, at the parameters of the second."""
    objective = model.objective
    away = np.setdiff1d(np.arange(60), KEPT)
    at = objective.at(other.objective.space.vector())
    return at.without(torch.as_tensor(away)).gradient().norm()


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(C=0.3, **TIGHT),
        LogisticRegression(class_weight="balanced", **TIGHT),
        LogisticRegression(solver="liblinear", **TIGHT),
        LinearSVC(dual=False, **TIGHT),
        make_pipeline(StandardScaler(), LogisticRegression(**TIGHT)),
        LogisticRegressionCV(
            Cs=[0.1, 1],
            l1_ratios=(0,),
            use_legacy_attributes=False,
            scoring="accuracy",
            cv=3,
            **TIGHT,
        ),
        GridSearchCV(LogisticRegression(**TIGHT), {"C": [0.1, 1.0]}, cv=3),
    ],
    ids=lambda e: type(e).__name__,
)
def test_classifiers_minimise_what_is_left_of_the_objective(estimator):
    model = wrap(clone(estimator).fit(X, LABELS), train=(X, LABELS))
    other = model.retrain(KEPT)
    assert len(other.train) == len(KEPT)
    assert held_gradient(model, other) < 1e-6
    assert other.classes_.tolist() == ["no", "yes"]


@pytest.mark.parametrize(
    "estimator",
    [
        Ridge(2.0),
        RidgeCV([0.5, 5.0]),
        PoissonRegressor(alpha=0.5, tol=1e-10, solver="newton-cholesky"),
        make_pipeline(StandardScaler(), Ridge(2.0)),
    ],
    ids=lambda e: type(e).__name__,
)
def test_regressors_minimise_what_is_left_of_the_objective(estimator):
    model = wrap(clone(estimator).fit(X, VALUES), train=(X, VALUES))
    assert held_gradient(model, model.retrain(KEPT)) < 1e-6


def test_mlp_keeps_its_penalty():
    estimator = MLPRegressor(
        hidden_layer_sizes=(), solver="adam", batch_size=30, alpha=3.0, max_iter=2, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = wrap(estimator.fit(X, VALUES), train=(X, VALUES))
        other = model.retrain(np.arange(45))
    per_row = {k: v * 60 for k, v in model.weight_decay.items()}
    assert per_row == pytest.approx({k: v * 45 for k, v in other.weight_decay.items()})


def test_lasso_penalty_grows_with_what_leaves():
    model = wrap(Lasso(0.1).fit(X, VALUES), train=(X, VALUES))
    assert model.retrain(np.arange(30)).estimator.alpha == pytest.approx(0.2)


def test_scalers_stay_as_fitted():
    estimator = make_pipeline(StandardScaler(), Ridge()).fit(X, VALUES)
    other = wrap(estimator, train=(X, VALUES)).retrain(np.arange(20))
    np.testing.assert_array_equal(other.estimator[0].mean_, estimator[0].mean_)
    assert other.estimator is not estimator


def test_kinds_of_rows_are_kept():
    frame, series = pd.DataFrame(X, columns=list("abc")), pd.Series(LABELS)
    estimator = LogisticRegression().fit(frame, series)
    model = wrap(estimator, train=(frame, series))
    mask = np.zeros(60, bool)
    mask[KEPT] = True
    reference = clone(estimator).fit(frame[mask], series[mask])
    for kept in (KEPT, KEPT.tolist(), torch.as_tensor(KEPT), mask, torch.as_tensor(mask)):
        np.testing.assert_allclose(
            model.retrain(kept).predict_proba(frame), reference.predict_proba(frame), atol=1e-12
        )


def test_train_fn_gets_the_users_rows():
    seen = []

    def train_fn(rows, labels):
        seen.append((rows, labels))
        torch.manual_seed(0)
        return nn.Linear(3, 2)

    inputs = torch.as_tensor(X, dtype=torch.float32)
    model = wrap(
        nn.Linear(3, 2),
        train=(inputs, LABELS),
        train_fn=train_fn,
        weight_decay=0.1,
        bounds=(0, 1),
        class_names=["yes", "no"],
    )
    other = model.retrain([0, 1, 2])
    assert isinstance(other, Model)
    torch.testing.assert_close(seen[0][0], inputs[:3])
    assert seen[0][1].tolist() == LABELS[:3].tolist()
    assert other.classes_.tolist() == ["yes", "no"]
    assert other.weight_decay == 0.1
    assert other.bounds == (0.0, 1.0)
    one_class = model.retrain(np.flatnonzero(LABELS == "no"))
    assert one_class.classes_.tolist() == ["yes", "no"]


def test_a_seed_reaches_train_fn_and_leaves_the_global_generators_alone():
    inputs = torch.as_tensor(X, dtype=torch.float32)

    def unseeded(rows, labels):
        return nn.Linear(3, 2)  # draws its weights from the global generator

    def with_argument(rows, labels, random_state=7):
        net = nn.Linear(3, 2)
        nn.init.constant_(net.weight, random_state)
        return net

    def weights(train_fn, seed):
        model = wrap(nn.Linear(3, 2), train=(inputs, LABELS), train_fn=train_fn)
        return model.retrain([0, 1, 2], random_state=seed).module.weight.detach()

    torch.testing.assert_close(weights(unseeded, 1), weights(unseeded, 1), rtol=0, atol=0)
    assert not torch.equal(weights(unseeded, 1), weights(unseeded, 2))
    assert (weights(with_argument, 3) == 3).all()
    assert (weights(with_argument, None) == 7).all()
    model = wrap(nn.Linear(3, 2), train=(inputs, LABELS), train_fn=unseeded)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    model.retrain([0, 1, 2], random_state=3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_a_seed_reaches_estimators_and_the_last_step_of_a_pipeline():
    from sklearn.neural_network import MLPRegressor

    estimator = MLPRegressor(hidden_layer_sizes=(3,), max_iter=400, random_state=0, tol=1e-2).fit(
        X, VALUES
    )
    pipeline = make_pipeline(StandardScaler(), clone(estimator)).fit(X, VALUES)
    for fitted in (estimator, pipeline):
        model = wrap(fitted, train=(X, VALUES))
        own, one, again, two = (
            model.retrain(np.arange(50), random_state=seed).predict(X) for seed in (None, 1, 1, 2)
        )
        np.testing.assert_array_equal(one, again)
        assert not np.allclose(one, two)
        assert not np.allclose(one, own)
    assert estimator.random_state == 0
    assert pipeline[-1].random_state == 0


def test_refusals():
    untrainable = wrap(nn.Linear(3, 2), train=(X, LABELS))
    with pytest.raises(TypeError, match="train_fn="):
        untrainable.retrain([0])
    with pytest.raises(ValueError, match="train="):
        wrap(Ridge().fit(X, VALUES)).retrain([0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = LassoCV(cv=3).fit(X, VALUES)
    with pytest.raises(TypeError, match="train_fn="):
        wrap(chosen, train=(X, VALUES)).retrain([0, 1])


@pytest.mark.parametrize(
    "indices", [[], [60], [-1], [0.5], [[0, 1]], np.ones(5, bool), ["a"]], ids=repr
)
def test_bad_indices(indices):
    model = wrap(Ridge().fit(X, VALUES), train=(X, VALUES))
    with pytest.raises(ValueError, match=r"indices|mask"):
        model.retrain(indices)
