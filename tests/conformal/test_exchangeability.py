"""The watch over a stream: what it computes, when it rings, its face."""

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import trustml
from trustml.conformal import ExchangeabilityTest, SplitClassifier, exchangeability_martingale
from trustml.evidence import PlugIn, betting_martingale, online_pvalues


def test_a_regressors_stream_is_the_function_of_its_residuals(diabetes: object) -> None:
    d = diabetes
    test = ExchangeabilityTest(d.model, random_state=4).fit(d.X_cal, d.y_cal).update(d.X, d.y)
    past, now = (np.abs(y - d.model.predict(X)) for X, y in ((d.X_cal, d.y_cal), (d.X, d.y)))
    path = test.trace()
    np.testing.assert_allclose(path.score, now)
    np.testing.assert_array_equal(path.p_value, online_pvalues(now, 4, cal_scores=past))
    np.testing.assert_allclose(
        path.log_wealth, betting_martingale(path.p_value, "composite", log=True)
    )
    same = exchangeability_martingale(now, cal_scores=past, random_state=4)
    np.testing.assert_array_equal(same.log_wealth, path.log_wealth)
    assert test.alarm_ is None
    assert path.alarm is None
    assert test.n_calibration_ == 150


def test_row_by_row_is_the_same_as_at_once(diabetes: object) -> None:
    d = diabetes
    whole = ExchangeabilityTest(d.model, "normalized", PlugIn(4), 0.2, random_state=0)
    parts = clone(whole)
    whole.fit(d.X_cal, d.y_cal).update(d.X, d.y + 90)
    parts.fit(d.X_cal, d.y_cal).update(d.X[:50], d.y[:50] + 90)
    for x, y in zip(d.X[50:], d.y[50:], strict=True):
        parts.update(x, y + 90)
    np.testing.assert_allclose(parts.trace().log_wealth, whole.trace().log_wealth, rtol=1e-9)
    assert parts.alarm_ == whole.alarm_ == whole.trace().alarm is not None
    first = whole.trace().log_wealth >= np.log(5)
    assert first.argmax() == whole.alarm_


def test_a_classifiers_stream_rings_when_the_rows_change(digits: object) -> None:
    d = digits
    test = ExchangeabilityTest(d.model, random_state=0).fit(d.X_cal, d.y_cal)
    test.update(d.X[:300], d.y[:300])
    assert test.alarm_ is None
    noise = np.random.default_rng(0).normal(0, 0.8, size=d.X[300:].shape)
    test.update(d.X[300:] + noise, d.y[300:])
    assert 300 <= test.alarm_ < 600
    test.update(d.X[:100], d.y[:100])
    assert test.alarm_ < 600  # what has rung has rung
    assert test.fit(d.X_cal, d.y_cal).alarm_ is None
    assert len(test.trace().score) == 0


@pytest.mark.parametrize("score", ["aps", "raps", lambda p, u: -p])
def test_any_score_of_a_set_predictor_will_do(digits: object, score: object) -> None:
    d = digits
    names = np.array([f"d{k}" for k in range(10)])
    model = trustml.precomputed("probabilities", class_names=names.tolist())
    p_cal, p = d.model.predict_proba(d.X_cal), d.model.predict_proba(d.X)
    test = ExchangeabilityTest(model, score, random_state=0).fit(p_cal, names[d.y_cal])
    test.update(p[:1], names[d.y[:1]])
    test.update(p[1], names[d.y[1]])
    at_once = clone(test).fit(p_cal, names[d.y_cal]).update(p[:2], names[d.y[:2]])
    np.testing.assert_array_equal(test.trace().p_value, at_once.trace().p_value)
    split = SplitClassifier(model, score, random_state=0).fit(p_cal, names[d.y_cal])
    assert test.n_calibration_ == split.n_calibration_
    assert test.trace().score.shape == (2,)
    wrong = names[(d.y + 1) % 10]
    assert test.update(p, wrong).alarm_ < 60


def test_the_table_says_what_happened_and_no_one_changes_it() -> None:
    path = exchangeability_martingale(np.arange(30.0), random_state=0)
    assert set(path.to_frame().columns) == {"score", "p_value", "log_wealth"}
    assert f"alarm at step {path.alarm} " in repr(path)
    assert "no alarm" in repr(exchangeability_martingale([1.0, 0.0], random_state=0))


def test_torch_rows_and_copies(diabetes: object) -> None:
    d = diabetes
    test = ExchangeabilityTest(d.model, random_state=1).fit(d.X_cal, d.y_cal)
    copied = copy.deepcopy(test)
    test.update(torch.from_numpy(d.X), torch.from_numpy(d.y))
    test.update(torch.from_numpy(d.X[0]), torch.tensor(d.y[0]))
    assert len(copied.trace().score) == 0
    copied.update(d.X, d.y)
    np.testing.assert_allclose(copied.trace().log_wealth, test.trace().log_wealth[:-1])


def test_bad_input(digits: object, diabetes: object) -> None:
    d = diabetes
    for call in (lambda t: t.trace(), lambda t: t.update(d.X, d.y)):
        with pytest.raises(NotFittedError):
            call(ExchangeabilityTest(d.model))
    for given, text in (({"bet": "even"}, "plugin"), ({"alpha": 2.0}, "alpha"),
                        ({"score": "lac"}, "score must be")):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            ExchangeabilityTest(d.model, **given).fit(d.X_cal, d.y_cal)
    test = ExchangeabilityTest(d.model).fit(d.X_cal, d.y_cal)
    with pytest.raises(ValueError, match="one outcome a row"):
        test.update(d.X, d.y[1:])
    given = ExchangeabilityTest(digits.model, lambda p, u: p * np.nan)
    with pytest.raises(ValueError, match="NaN"):
        given.fit(digits.X_cal, digits.y_cal)
    for scores in ([], [np.nan], [[1.0]]):
        with pytest.raises(ValueError, match="scores"):
            exchangeability_martingale(scores)
