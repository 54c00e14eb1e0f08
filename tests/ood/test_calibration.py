"""P-values, alarms, discoveries."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

import trustml
from trustml.evidence import benjamini_hochberg, benjamini_yekutieli, pvalues
from trustml.ood import Energy, Knn, Msp, Suite
from trustml.warnings import CoverageWarning


@pytest.fixture
def line():
    """A detector whose score is the distance to 0 on a line."""
    model = trustml.precomputed("features")
    return Knn(model, k=1, normalize=False).fit(np.zeros((1, 1)))


def test_p_values_are_ranks(line):
    line.calibrate(np.arange(1.0, 10.0)[:, None])  # scores 1..9
    p = line.p_values(np.array([[0.5], [1.0], [8.5], [9.0], [9.5]]))
    np.testing.assert_allclose(p, [1.0, 1.0, 0.2, 0.2, 0.1])


def test_alarm_is_p_at_most_alpha_with_exact_ranks(line):
    line.calibrate(np.arange(1.0, 10.0)[:, None])
    X = np.arange(0.5, 12.0, 0.5)[:, None]
    p = line.p_values(X)
    for alpha in (0.1, 0.2, 0.3, 0.7, 0.9):
        tenths = np.round(p * 10).astype(int)
        np.testing.assert_array_equal(line.alarm(X, alpha), tenths <= round(alpha * 10))
        np.testing.assert_array_equal(
            line.alarm(X, np.float32(alpha)), line.alarm(X, alpha), "float32 0.3 is 3/10"
        )


def test_discoveries_are_benjamini_hochberg(digits):
    det = Msp(digits.model).fit(digits.X_train).calibrate(digits.X_test[:500])
    batch = np.concatenate([digits.X_test[500:560], digits.foreign[:60]])
    expected = benjamini_hochberg(det.p_values(batch), 0.2)
    np.testing.assert_array_equal(det.discoveries(batch, q=0.2), expected)
    assert expected.any()


def test_too_few_calibration_rows_never_alarm_and_say_so(line):
    line.calibrate(np.ones((18, 1)))
    with pytest.warns(CoverageWarning, match="false-alarm rate of 0.05; at least 19"):
        assert not line.alarm(np.array([[99.0]]), alpha=0.05).any()


def test_verdicts_come_in_the_kind_of_x(line):
    line.calibrate(np.arange(1.0, 30.0)[:, None])
    X = np.array([[1.0], [50.0]])
    assert line.alarm(X).dtype == bool
    assert line.discoveries(torch.tensor(X)).dtype == torch.bool
    assert isinstance(line.p_values(torch.tensor(X)), torch.Tensor)
    assert isinstance(line.p_values(X.tolist()), np.ndarray)


def test_fit_forgets_the_calibration(digits):
    det = Msp(digits.model).fit(digits.X_train).calibrate(digits.X_test)
    det.fit(digits.X_train)
    with pytest.raises(NotFittedError, match="not calibrated"):
        det.alarm(digits.X_test)


@pytest.mark.parametrize("level", [0, 1, -0.1, np.nan])
def test_bad_levels_are_refused(digits, level):
    det = Msp(digits.model).fit(digits.X_train).calibrate(digits.X_test)
    with pytest.raises(ValueError, match="alpha must be in"):
        det.alarm(digits.X_test, alpha=level)
    with pytest.raises(ValueError, match="q must be in"):
        det.discoveries(digits.X_test, q=level)


def test_with_labels_the_p_value_is_the_largest_over_classes(digits):
    cal, labels, new = digits.X_test[:400], digits.y_test[:400], digits.X_test[400:450]
    det = Msp(digits.model).fit(digits.X_train).calibrate(cal, labels)
    inside, scores = det.score(cal), det.score(new)
    by_class = [pvalues(inside[labels == k], scores) for k in range(10)]
    np.testing.assert_array_equal(det.p_values(new), np.max(by_class, axis=0))
    for alpha in (0.1, 0.2, 0.3):
        np.testing.assert_array_equal(det.alarm(new, alpha), det.p_values(new) <= alpha)


def test_equal_weights_change_nothing_and_whole_ones_count_rows(digits):
    cal, new = digits.X_test[:99], digits.X_test[400:450]
    det = Msp(digits.model).fit(digits.X_train)
    plain = det.calibrate(cal).p_values(new)
    equal = det.calibrate(cal, weights=lambda X: np.full(len(X), 7.0))
    np.testing.assert_allclose(equal.p_values(new), plain)
    for alpha in (0.1, 0.2, 0.3):
        np.testing.assert_array_equal(equal.alarm(new, alpha), plain <= alpha + 1e-12)
    dark = lambda X: 1.0 + (np.asarray(X).sum(axis=1) > 20)  # noqa: E731
    det.calibrate(cal, weights=dark)
    inside, w = det.score(cal), dark(cal)
    naive = [
        (w[inside >= s].sum() + own) / (w.sum() + own)
        for s, own in zip(det.score(new), dark(new), strict=True)
    ]
    np.testing.assert_allclose(det.p_values(new), naive)
    expected = benjamini_yekutieli(det.p_values(new), 0.2)
    np.testing.assert_array_equal(det.discoveries(new, 0.2), expected)


def test_a_suite_hands_labels_and_weights_to_all(digits):
    cal, labels, new = digits.X_test[:400], digits.y_test[:400], digits.X_test[400:430]
    calls = []

    def ratio(X):
        calls.append(len(X))
        return 1.0 + np.asarray(X)[:, 20]

    kinds = [Msp, Energy]
    suite = Suite(digits.model, kinds).fit(digits.X_train).calibrate(cal, labels, ratio)
    found = {"p": suite.p_values(new), "alarm": suite.alarm(new), "found": suite.discoveries(new)}
    assert calls == [400, 30, 30, 30], "once a call, not once a detector"
    for kind in kinds:
        det = kind(digits.model).fit(digits.X_train).calibrate(cal, labels, ratio)
        np.testing.assert_allclose(found["p"][kind.__name__], det.p_values(new))
        np.testing.assert_array_equal(found["alarm"][kind.__name__], det.alarm(new))
        np.testing.assert_array_equal(found["found"][kind.__name__], det.discoveries(new))


def test_bad_labels_and_weights_are_refused(digits):
    det, cal = Msp(digits.model).fit(digits.X_train), digits.X_test[:50]
    rows = digits.X_train[:50]
    numbers = Knn(LinearRegression().fit(rows, rows.sum(axis=1))).fit(rows)
    with pytest.raises(ValueError, match="no classifier"):
        numbers.calibrate(rows, np.zeros(50))
    with pytest.raises(ValueError, match="same length"):
        det.calibrate(cal, digits.y_test[:49])
    with pytest.raises(TypeError, match="must be a function"):
        det.calibrate(cal, weights=np.ones(50))
    for bad in (-1.0, np.nan):
        with pytest.raises(ValueError, match="one finite number of at least 0 a row"):
            det.calibrate(cal, weights=lambda X, bad=bad: np.full(len(X), bad))
