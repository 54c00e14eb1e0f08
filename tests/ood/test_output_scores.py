"""MSP, entropy, maximum logit, energy against their formulae."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import entropy
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import nn

import trustml
from trustml.ood import Energy, Entropy, MaxLogit, Msp


def test_formulae(digits):
    X = digits.X_test[:50]
    logits = digits.model.logits(X).astype(np.float64)
    p = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    expected = {
        Msp: 1 - p.max(1),
        Entropy: entropy(p, axis=1),
        MaxLogit: -logits.max(1),
        Energy: -logsumexp(logits, axis=1),
    }
    for kind, value in expected.items():
        score = kind(digits.model).fit(digits.X_train).score(X)
        np.testing.assert_allclose(score, value, atol=1e-9, err_msg=kind.__name__)


def test_temperature(digits):
    X = digits.X_test[:20]
    logits = digits.model.logits(X).astype(np.float64)
    score = Energy(digits.model, temperature=5.0).fit(X).score(X)
    np.testing.assert_allclose(score, -5 * logsumexp(logits / 5, axis=1))


def test_confident_rows_do_not_tie_at_zero():
    net = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-1.0], [1.0]]))
    X = np.array([[50.0], [60.0], [70.0]], dtype=np.float32)
    score = Msp(trustml.wrap(net, task="classification")).fit(X).score(X)
    np.testing.assert_allclose(score, np.exp(-2.0 * X[:, 0].astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("kind", [MaxLogit, Energy])
def test_one_output_models_treat_both_classes_alike(kind):
    # In the gauge (0, f) a sure row of class 0 has energy 0, a sure row of class 1 has -f.
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    model = trustml.wrap(net, task="classification")
    X = np.array([[-8.0], [8.0], [0.0]], dtype=np.float32)
    sure_0, sure_1, unsure = kind(model).fit(X).score(X)
    assert sure_0 == pytest.approx(sure_1)
    assert unsure > sure_1
    if kind is Energy:
        assert sure_1 == pytest.approx(-np.log(2 * np.cosh(4.0)))


def test_prediction_only_models_are_served(digits):
    forest = RandomForestClassifier(20, random_state=0).fit(digits.X_train, digits.y_train)
    p = forest.predict_proba(digits.X_test[:30])
    score = Entropy(forest).fit(digits.X_train).score(digits.X_test[:30])
    np.testing.assert_allclose(score, entropy(p, axis=1), atol=1e-6)
    score = Msp(forest).fit(digits.X_train).score(digits.X_test[:30])
    np.testing.assert_allclose(score, 1 - p.max(1), atol=1e-6)


def test_detectors_that_do_not_fit_name_those_that_do(digits):
    forest = RandomForestClassifier(5, random_state=0).fit(digits.X_train, digits.y_train)
    with pytest.raises(ValueError, match=r"Energy needs logits.*these work: Msp, Entropy"):
        Energy(forest).fit(digits.X_train)
    regression = trustml.wrap(nn.Linear(2, 1), task="regression")
    with pytest.raises(ValueError, match=r"class probabilities.*Mahalanobis, Knn"):
        Msp(regression).fit(np.zeros((5, 2), dtype=np.float32))


def test_logits_alone_serve_the_four():
    logits = np.random.default_rng(0).normal(size=(30, 4))
    model = trustml.precomputed("logits")
    for kind in (Msp, Entropy, MaxLogit, Energy):
        assert np.isfinite(kind(model).fit(logits).score(logits)).all()


def test_binary_scikit_learn_models_are_served(digits):
    y = (digits.y_train > 4).astype(int)
    model = LogisticRegression(max_iter=2000).fit(digits.X_train, y)
    p = model.predict_proba(digits.X_test)
    score = Msp(model).fit(digits.X_train).score(digits.X_test)
    np.testing.assert_allclose(score, 1 - p.max(1), atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_bad_temperature_is_refused(digits, temperature):
    with pytest.raises(ValueError, match="temperature must be a positive number"):
        Energy(digits.model, temperature=temperature).fit(digits.X_train)
