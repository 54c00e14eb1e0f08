"""Labels are the user's own; the task is inferred, or asked for."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from trustml.model import as_model, wrap
from trustml.model.labels import Labels, raw_labels

X = np.random.default_rng(0).normal(size=(30, 4))
CODES = np.arange(30) % 3


@pytest.mark.parametrize(
    "names",
    [
        np.array(["ant", "bee", "cat"]),
        np.array(["ant", "bee", "cat"], dtype=object),
        np.array([-5, 0, 7]),
        np.array([1.0, 2.0, 3.0]),
    ],
    ids=["text", "objects", "integers", "floats"],
)
@pytest.mark.parametrize("kind", ["array", "list", "series", "column"])
def test_labels_in_and_out(names, kind):
    y = names[CODES]
    given = {
        "array": y,
        "list": y.tolist(),
        "series": pd.Series(y),
        "column": y[:, None],
    }[kind]
    estimator = LogisticRegression().fit(X, y)
    model = wrap(estimator, train=(X, given))
    np.testing.assert_array_equal(model.targets(given).numpy(), CODES)
    np.testing.assert_array_equal(model.predict(X), estimator.predict(X))
    np.testing.assert_array_equal(model.classes_, names)
    module = wrap(nn.Linear(4, 3), task="classification", train=(X, given))
    np.testing.assert_array_equal(module.targets(given).numpy(), CODES)
    assert set(np.unique(module.predict(X)).tolist()) <= set(names.tolist())


def test_booleans():
    y = CODES > 0
    model = wrap(LogisticRegression().fit(X, y), train=(X, y))
    assert model.predict(X).dtype == bool
    assert wrap(nn.Linear(4, 1), train=(X, y)).classes_.tolist() == [False, True]


def test_tensor_labels_and_absent_classes():
    y = torch.tensor([0, 2] * 15)
    model = wrap(nn.Linear(4, 4), train=(X, y))
    assert model.classes_.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"\[4\]"):
        model.targets([4])


def test_class_names_order_text_labels():
    y = np.array(["low", "mid", "high"])[CODES]
    model = wrap(nn.Linear(4, 3), train=(X, y), class_names=["low", "mid", "high"])
    np.testing.assert_array_equal(model.targets(y).numpy(), CODES)
    assert model.class_names == ["low", "mid", "high"]
    coded = wrap(nn.Linear(4, 3), train=(X, CODES), class_names=["low", "mid", "high"])
    np.testing.assert_array_equal(coded.targets(y).numpy(), CODES)
    assert coded.predict(X).dtype.kind == "i"


@pytest.mark.parametrize("y", [["dog"], [1.5], [9], [True]])
def test_unseen_labels_list_the_known_ones(y):
    text = np.array(["ant", "bee", "cat"])[CODES]
    model = wrap(LogisticRegression().fit(X, text), train=(X, text))
    with pytest.raises(ValueError, match=r"'ant', 'bee', 'cat'"):
        model.targets(y)


@pytest.mark.parametrize("y", [[None, "a"], [np.nan, 1.0], [], np.nan])
def test_missing_labels(y):
    with pytest.raises(ValueError, match=r"y (has|must)"):
        raw_labels(y)


def test_duplicate_classes():
    with pytest.raises(ValueError, match="distinct"):
        Labels(np.array([1, 1]))


@pytest.mark.parametrize(
    ("outputs", "y", "task"),
    [
        (3, CODES, "classification"),
        (3, CODES.astype(str), "classification"),
        (1, CODES % 2, "classification"),
        (1, CODES, "regression"),
        (1, X[:, 0], "regression"),
        (2, X[:, :2], "regression"),
        (2, (X[:, :2] > 0).astype(int), "multilabel"),
        (2, X[:, :2] > 0, "multilabel"),
    ],
)
def test_task_from_labels(outputs, y, task):
    assert wrap(nn.Linear(4, outputs), train=(X, y)).task == task


@pytest.mark.parametrize(
    ("loss", "outputs", "task"),
    [
        (nn.CrossEntropyLoss(), 3, "classification"),
        (nn.MSELoss(), 1, "regression"),
        (nn.BCEWithLogitsLoss(), 1, "classification"),
        (nn.L1Loss(), 1, "regression"),
        (nn.PoissonNLLLoss(), 1, "regression"),
    ],
)
def test_task_from_loss(loss, outputs, task):
    y = CODES.astype(float) % 2 if outputs == 1 else CODES
    assert wrap(nn.Linear(4, outputs), train=(X, y), loss=loss).task == task


@pytest.mark.parametrize(
    ("outputs", "y"), [(1, CODES % 2 * 1.0), (3, CODES * 1.0), (2, CODES), (2, X[:, :2] > 9.0)]
)
def test_ambiguity_asks(outputs, y):
    module = nn.Linear(4, outputs)
    if y.ndim == 2:
        y = y.astype(float)
    with pytest.raises(ValueError, match=r"task=\.\.\."):
        wrap(module, train=(X, y))


def test_no_information_asks():
    for ask in (wrap, as_model):
        with pytest.raises(ValueError, match="'regression'"):
            ask(nn.Linear(4, 3))


def test_contradictions():
    y = CODES
    with pytest.raises(ValueError, match="omit task"):
        wrap(LogisticRegression().fit(X, y), task="regression")
    with pytest.raises(ValueError, match="task must be one of"):
        wrap(nn.Linear(4, 3), task="classify")
    with pytest.raises(ValueError, match="3 distinct labels"):
        wrap(nn.Linear(4, 2), task="classification", train=(X, np.array([5, 6, 7])[y]))
    with pytest.raises(ValueError, match="one class only"):
        wrap(nn.Linear(4, 3), task="classification", train=(X, np.zeros(30, int)))
    with pytest.raises(ValueError, match="class_names"):
        wrap(nn.Linear(4, 3), train=(X, y), class_names=["a", "b"])
    with pytest.raises(ValueError, match="class_names"):
        wrap(LogisticRegression().fit(X, y), class_names=["a", "b"])
    with pytest.raises(ValueError, match="cross-entropy of one output"):
        wrap(nn.Linear(4, 1), train=(X, y % 2), loss=nn.CrossEntropyLoss())


def test_models_pass_through():
    model = wrap(LogisticRegression().fit(X, CODES))
    assert as_model(model) is model
    with pytest.raises(TypeError, match="already"):
        wrap(model)
