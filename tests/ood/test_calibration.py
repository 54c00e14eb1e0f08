"""P-values, alarms, discoveries."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

import trustml
from trustml.evidence import benjamini_hochberg
from trustml.ood import Knn, Msp
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
    with pytest.warns(CoverageWarning, match="at least 19"):
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
