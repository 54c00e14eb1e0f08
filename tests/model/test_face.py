"""The rest of the face: text, clones, stored outputs, transformers."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from trustml.model import Model, precomputed, wrap

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3))
Y = np.arange(20) % 3
P = RNG.dirichlet(np.ones(3), size=20)


class Room(BaseEstimator):
    def __init__(self, model=None):
        self.model = model


def test_clone_keeps_the_model():
    model = wrap(LogisticRegression().fit(X, Y), train=(X, Y))
    assert clone(model) is model
    assert clone(Room(model)).model is model


def test_repr_says_what_it_is():
    text = repr(wrap(LogisticRegression().fit(X, Y), train=(X, Y)))
    assert (
        text
        == "Model(LogisticRegression, classification, 3 classes, 20 training rows, differentiable)"
    )
    assert "prediction-only" in repr(wrap(RandomForestClassifier(2).fit(X, Y)))
    assert repr(wrap(Ridge().fit(X, X[:, 0]))) == "Model(Ridge, regression, differentiable)"


def test_regressors_have_no_probabilities():
    model = wrap(Ridge().fit(X, X[:, 0]), train=(X, X[:, 0]))
    assert model.classes_ is None
    assert model.n_classes is None
    assert model.class_names is None
    for ask in (model.predict_proba, model.logits):
        with pytest.raises(TypeError, match="classification"):
            ask(X)
    with pytest.raises(TypeError, match="regression"):
        wrap(LogisticRegression().fit(X, Y)).values_of(torch.zeros(2, 3))


def test_stored_probabilities():
    model = precomputed("probabilities")
    np.testing.assert_array_equal(model.predict_proba(P), P)
    np.testing.assert_array_equal(model.predict(P), P.argmax(1))
    np.testing.assert_allclose(model.logits(P), np.log(P))
    np.testing.assert_allclose(model.loss(P, Y), -np.log(P[np.arange(20), Y]))
    assert model.n_classes == 3
    assert not model.differentiable
    assert isinstance(model.predict_proba(torch.as_tensor(P)), torch.Tensor)
    binary = precomputed("probabilities").predict_proba(P[:, 0])
    np.testing.assert_allclose(binary, np.c_[1 - P[:, 0], P[:, 0]])


def test_stored_probabilities_with_names():
    text = np.array(["a", "b", "c"])[Y]
    model = precomputed("probabilities", train=(P, text))
    assert set(model.predict(P)) <= {"a", "b", "c"}
    assert model.targets(text).tolist() == Y.tolist()
    named = precomputed("probabilities", class_names=["x", "y", "z"])
    assert named.class_names == ["x", "y", "z"]
    assert named.targets(["z", "x"]).tolist() == [2, 0]


def test_stored_logits_and_values():
    model = precomputed("logits")
    np.testing.assert_allclose(model.predict_proba(np.log(P)), P)
    values = precomputed("values")
    np.testing.assert_array_equal(values.predict(X[:, 0]), X[:, 0])
    np.testing.assert_allclose(values.loss(X[:, 0], X[:, 1]), (X[:, 0] - X[:, 1]) ** 2)


def test_stored_features():
    model = precomputed("features", train=(X, Y))
    np.testing.assert_array_equal(model.features(X), X)
    assert model.targets(Y).tolist() == Y.tolist()
    assert precomputed("features").targets(["u", "v", "u"]).tolist() == [0, 1, 0]
    for ask in (model.predict, model.predict_proba, model.logits):
        with pytest.raises(TypeError, match="features only"):
            ask(X)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (P * 2, "sum|lie in"),
        (P - 0.5, "lie in"),
        (P[:, :2], "sum to one"),
        (np.where(P > 0.5, np.nan, P), "NaN"),
        (P[:0], "no rows"),
    ],
)
def test_bad_stored_probabilities(rows, message):
    with pytest.raises(ValueError, match=message):
        precomputed("probabilities").predict(rows)


def test_bad_kinds():
    with pytest.raises(ValueError, match="kind must be one of"):
        precomputed("scores")
    with pytest.raises(ValueError, match=r"class_names|classes"):
        precomputed("probabilities", train=(P, Y), class_names=["a", "b"])


def test_own_loss_of_a_differentiable_model():
    y = X[:, 0]
    model = wrap(Ridge(5.0).fit(X, y), train=(X, y), loss=nn.L1Loss())
    np.testing.assert_allclose(model.loss(X, y), abs(model.predict(X) - y))
    assert model.weight_decay == 0.0  # ridge's own penalty belongs to ridge's own loss


def test_transformers_models():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=2,
        id2label={0: "bad", 1: "good"},
    )
    torch.manual_seed(0)
    bert = transformers.BertForSequenceClassification(config).train()
    tokens = torch.randint(0, 30, (6, 5))
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    model = wrap(bert, train=(batch, ["bad", "good"] * 3))
    assert isinstance(model, Model)
    assert model.task == "classification"
    assert model.class_names == ["bad", "good"]
    assert model.head_name == "classifier"
    assert model.features(batch).shape == (6, 8)
    assert model.predict_proba(batch).shape == (6, 2)
    assert bert.training
    causal = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    )
    assert wrap(causal).task == "language-modeling"
    assert wrap(causal).logits({"input_ids": tokens}).shape == (6, 5, 30)
