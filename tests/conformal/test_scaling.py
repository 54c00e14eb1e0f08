"""Temperature, vector and isotonic scaling: stationarity, scikit-learn's answers, bad input."""

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.naive_bayes import GaussianNB

import trustml
from trustml.conformal import (
    IsotonicScaling,
    SplitClassifier,
    TemperatureScaling,
    VectorScaling,
    VennAbers,
    metrics,
)
from trustml.warnings import ConvergenceWarning

KINDS = [TemperatureScaling, VectorScaling, IsotonicScaling, VennAbers]


@pytest.fixture(scope="module")
def drawn() -> tuple:
    """Logits of true probabilities, and labels drawn from them."""
    rng = np.random.default_rng(0)
    logits = 1.5 * rng.normal(size=(4000, 4))
    return logits, (logits + rng.gumbel(size=logits.shape)).argmax(1)


def nll(p: np.ndarray, y: np.ndarray) -> float:
    return float(-np.log(p[np.arange(len(y)), y]).mean())


def test_the_temperature_is_the_stationary_point(drawn: tuple) -> None:
    logits, y = drawn
    cal = TemperatureScaling(trustml.precomputed("logits")).fit(3 * logits, y)
    assert abs(cal.temperature_ - 3) < 0.2
    losses = [
        nll(np.asarray(torch.from_numpy(3 * logits / t).softmax(1)), y)
        for t in cal.temperature_ * np.array([1, 0.999, 1.001])
    ]
    assert losses[0] < min(losses[1:])
    # Twice the logits, twice the temperature: the probabilities stay.
    twice = TemperatureScaling(trustml.precomputed("logits")).fit(6 * logits, y)
    assert twice.temperature_ == pytest.approx(2 * cal.temperature_, rel=1e-9)


def test_scikit_learn_finds_the_same(digits: object) -> None:
    bayes = GaussianNB(var_smoothing=0.1).fit(digits.X_cal[:200], digits.y_cal[:200])
    X, y = digits.X_cal[200:], digits.y_cal[200:]
    isotonic = CalibratedClassifierCV(FrozenEstimator(bayes), method="isotonic").fit(X, y)
    ours = IsotonicScaling(bayes).fit(X, y)
    np.testing.assert_allclose(
        ours.predict_proba(digits.X), isotonic.predict_proba(digits.X), atol=1e-6
    )


@pytest.mark.skipif(
    "temperature" not in str(CalibratedClassifierCV._parameter_constraints["method"]),
    reason="scikit-learn before 1.8 has no temperature scaling",
)
def test_scikit_learn_finds_the_same_temperature(digits: object) -> None:
    X, y = digits.X_cal, digits.y_cal
    theirs = CalibratedClassifierCV(FrozenEstimator(digits.estimator), method="temperature")
    expected = theirs.fit(X, y).predict_proba(digits.X)
    found = TemperatureScaling(digits.estimator).fit(X, y).predict_proba(digits.X)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_vector_scaling_is_stationary_and_contains_temperature(drawn: tuple) -> None:
    logits, y = drawn
    bent = logits * [1, 2, 3, 4] + [1.0, 0, 0, -1]
    model = trustml.precomputed("logits")
    cal = VectorScaling(model).fit(bent, y)
    np.testing.assert_allclose(cal.weight_, 1 / np.array([1, 2, 3, 4]), atol=0.1)
    assert cal.bias_.sum() == pytest.approx(0, abs=1e-12)
    p = cal.predict_proba(bent)
    gap = p - np.eye(4)[y]
    np.testing.assert_allclose(gap.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose((gap * bent).mean(0), 0, atol=1e-5)
    assert nll(p, y) < nll(TemperatureScaling(model).fit(bent, y).predict_proba(bent), y)


@pytest.mark.parametrize("kind", KINDS)
def test_overconfidence_is_mended(drawn: tuple, kind: type) -> None:
    logits, y = drawn
    model = trustml.precomputed("logits")
    cal = kind(model).fit(5 * logits[:2000], y[:2000])
    before = model.predict_proba(5 * logits[2000:])
    after = cal.predict_proba(5 * logits[2000:])
    np.testing.assert_allclose(after.sum(1), 1)
    assert metrics.ece(y[2000:], after) < metrics.ece(y[2000:], before) / 3
    # The true temperature's loss is the least that can be had, but for noise.
    true = nll(np.asarray(torch.from_numpy(logits[2000:]).softmax(1)), y[2000:])
    assert nll(np.maximum(after, 1e-3), y[2000:]) < true + 0.06
    if kind is TemperatureScaling:
        np.testing.assert_array_equal(cal.predict(5 * logits), logits.argmax(1))


@pytest.mark.parametrize("kind", KINDS)
def test_face(digits: object, kind: type) -> None:
    module = torch.nn.Linear(64, 10)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(5 * digits.estimator.coef_))
        module.bias.copy_(torch.from_numpy(5 * digits.estimator.intercept_))
    module.train()
    model, state = trustml.wrap(module, task="classification"), copy.deepcopy(module.state_dict())
    cal = kind(model)
    assert clone(cal).model is model
    with pytest.raises(NotFittedError):
        cal.predict_proba(digits.X)
    assert cal.fit(digits.X_cal, digits.y_cal) is cal
    found = cal.predict_proba(digits.X)
    assert isinstance(found, np.ndarray)
    tensor = cal.predict_proba(torch.from_numpy(digits.X))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), found)
    np.testing.assert_allclose(cal.predict_proba(digits.X[:1]), found[:1], rtol=1e-5)
    assert module.training
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    # A calibrated classifier is a classifier: conformal sets on top of it.
    sets = SplitClassifier(cal).fit(digits.X[:300], digits.y[:300]).predict_set(digits.X[300:])
    assert metrics.coverage(digits.y[300:], sets) > 0.83


def test_ends_of_the_scale_are_told() -> None:
    logits = np.random.default_rng(1).normal(size=(50, 3))
    model = trustml.precomputed("logits")
    with pytest.warns(ConvergenceWarning, match="zero"):
        sure = TemperatureScaling(model).fit(logits, logits.argmax(1))
    assert sure.temperature_ < 1e-3
    with pytest.warns(ConvergenceWarning, match="infinite"):
        lost = TemperatureScaling(model).fit(logits, logits.argmin(1))
    np.testing.assert_allclose(lost.predict_proba(logits), 1 / 3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input(digits: object, diabetes: object, kind: type) -> None:
    with pytest.raises(TypeError, match="needs a classifier"):
        kind(diabetes.model).fit(diabetes.X_cal, diabetes.y_cal)
    with pytest.raises(ValueError, match="600 rows"):
        kind(digits.model).fit(digits.X_cal, digits.y_cal[1:])
    with pytest.raises(ValueError, match="NaN"):
        kind(digits.model).fit(digits.X_cal * np.nan, digits.y_cal)


@pytest.mark.parametrize("kind", KINDS)
def test_scikit_learn_takes_them_for_classifiers(kind: type, digits: object) -> None:
    scaled = kind(digits.model).fit(digits.X_cal, digits.y_cal)
    assert is_classifier(scaled)
    right = scaled.predict(digits.X) == digits.y
    assert scaled.score(digits.X, digits.y) == np.mean(right)
