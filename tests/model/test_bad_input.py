"""Wrong arguments are refused with what was given, what was expected and the fix."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from trustml.model import wrap

X = np.random.default_rng(0).normal(size=(30, 4))
Y = np.arange(30) % 3


def models():
    return [
        wrap(LogisticRegression().fit(X, Y), train=(X, Y)),
        wrap(make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y), train=(X, Y)),
        wrap(nn.Linear(4, 3), train=(X, Y)),
    ]


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (X[:, :3], r"\(n, 4\), got \(30, 3\)"),
        (X[0], r"\(n, 4\), got \(4,\)"),
        (X[:0], "no rows|0 rows"),
        (np.where(X > 1, np.nan, X), "NaN"),
        (np.where(X > 1, np.inf, X), "infinite"),
        ([[1.0, 2.0], [3.0]], "ragged|inhomogeneous"),
    ],
)
def test_rows(which, rows, message):
    model = models()[which]
    with pytest.raises(ValueError, match=message):
        model.predict(rows)


@pytest.mark.parametrize("rows", [np.array([["a", "b", "c", "d"]]), pd.DataFrame({"x": ["a"]})])
def test_text_is_refused(rows):
    for model in models():
        with pytest.raises((TypeError, ValueError), match=r"numbers|\(n, 4\)"):
            model.predict(rows)


@pytest.mark.parametrize(
    "estimator",
    [LogisticRegression(), Ridge(), MLPClassifier(), make_pipeline(StandardScaler(), Ridge())],
    ids=lambda e: type(e).__name__,
)
def test_unfitted(estimator):
    with pytest.raises(NotFittedError):
        wrap(estimator)


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        (X, TypeError, r"\(X, y\)"),
        ((X,), TypeError, "of 1"),
        ((X, Y, Y), TypeError, "of 3"),
        ((X, Y[:5]), ValueError, "same length"),
        ((X[:0], Y[:0]), ValueError, "empty|at least one"),
        ((np.where(X > 1, np.nan, X), Y), ValueError, "NaN"),
        ((X, np.where(Y > 1, np.nan, Y)), ValueError, "NaN"),
        ((X, Y + 1), ValueError, "does not know"),
        ((X[:, :2], Y), ValueError, r"\(n, 4\)"),
        (
            DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), shuffle=True),
            ValueError,
            "shuffle=False",
        ),
        (
            DataLoader(
                TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=7, drop_last=True
            ),
            ValueError,
            "drop",
        ),
        (TensorDataset(torch.tensor(X)), ValueError, "targets"),
    ],
)
def test_training_data(train, error, message):
    with pytest.raises(error, match=message):
        wrap(LogisticRegression().fit(X, Y), train=train)


def test_iterable_datasets():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(torch.tensor(X), torch.tensor(Y), strict=True))

    with pytest.raises(TypeError, match="map-style"):
        wrap(nn.Linear(4, 3), train=Stream())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 2.5}, TypeError, "batch_size"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay"),
        ({"weight_decay": {"linear": float("nan")}}, ValueError, "weight_decay"),
        ({"train_fn": 3}, TypeError, "train_fn"),
        ({"bounds": (1, 0)}, ValueError, "low < high"),
        ({"bounds": 3}, ValueError, "bounds"),
        ({"bounds": (0, np.nan)}, ValueError, "bounds"),
        ({"feature_names": ["a"]}, ValueError, "feature_names"),
        ({"loss": "hinge"}, TypeError, "loss"),
    ],
)
def test_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        wrap(LogisticRegression().fit(X, Y), train=(X, Y), **arguments)


def test_bounds_are_kept():
    model = wrap(LogisticRegression().fit(X, Y), bounds=(0, np.arange(1, 5)))
    assert model.bounds[0] == 0.0
    np.testing.assert_array_equal(model.bounds[1], [1, 2, 3, 4])


def test_unknown_weight_decay_names_are_refused_by_the_objective():
    model = wrap(nn.Linear(4, 3), train=(X, Y), weight_decay={"nonsense": 0.1})
    with pytest.raises(ValueError, match="nonsense"):
        _ = model.objective


def test_loss_lengths():
    model = models()[0]
    with pytest.raises(ValueError, match="X has 30 rows, y has 4"):
        model.loss(X, Y[:4])


def test_multilabel_targets():
    model = wrap(nn.Linear(4, 2), train=(X, (X[:, :2] > 0).astype(int)))
    for wrong in (Y, np.full((30, 2), 0.5), np.zeros((30, 3))):
        with pytest.raises(ValueError, match=r"multilabel|columns"):
            model.targets(wrong)


def test_losses_that_mix_rows():
    y = X[:, 0]
    with pytest.raises(ValueError, match="mixes rows"):
        wrap(nn.Linear(4, 1), train=(X, y), loss=lambda f, y: ((f - y) ** 2).sum(1))
    with pytest.raises(ValueError, match="one loss a row"):
        wrap(nn.Linear(4, 1), train=(X, y), loss=lambda f, y: ((f[:, 0] - y) ** 2).mean())
    model = wrap(nn.Linear(4, 1), train=(X, y), loss=lambda f, y: (f[:, 0] - y).abs())
    assert model.loss(X, y).shape == (30,)


def test_outputs_without_rows():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            return self.linear(x).mean(0)

    with pytest.raises(ValueError, match="first output axis"):
        wrap(Pooled(), train=(X, Y))


def test_overflow_is_said():
    module = nn.Linear(4, 3)
    with torch.no_grad():
        module.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN outputs"):
        wrap(module, task="classification").predict(X)


def test_targets_before_any_data():
    model = wrap(nn.Sequential(nn.Linear(4, 3), nn.Identity()), task="classification")
    assert model.targets([0, 2, 1]).tolist() == [0, 2, 1]
    with pytest.raises(ValueError, match="predict"):
        _ = model.n_outputs
    model.predict(X)
    assert model.n_outputs == 3
