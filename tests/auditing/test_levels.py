"""A verdict's level is what it says: sound models fail no more often than that."""

import numpy as np
import pytest

import trustml
from trustml.auditing import Verdict

RUNS = 60


def sound(seed):
    """Calibrated forecasts of exchangeable rows: nothing is wrong with them."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(0, 1.5, 400)
    p = 1 / (1 + np.exp(-logit))
    y = (generator.random(400) < p).astype(int)
    group = np.array(["a", "b", "c"])[generator.integers(0, 3, 400)]
    return np.stack([1 - p, p], axis=1), y, group


@pytest.mark.parametrize(
    ("check", "thresholds"),
    [("coverage", {"tolerance": 0.02}), ("fairness", {"max_difference": 1e-6})],
)
def test_a_sound_model_rarely_fails(check, thresholds):
    """Thresholds so tight that only the level keeps the verdict from failing."""
    failed = 0
    for seed in range(RUNS):
        P, y, group = sound(seed)
        result = trustml.audit(
            trustml.precomputed("probabilities"),
            P[200:],
            y[200:],
            X_cal=P[:200],
            y_cal=y[:200],
            sensitive_features=group[200:],
            checks={check: thresholds},
            random_state=seed,
        )[check]
        failed += result.verdict is Verdict.FAIL
        assert result.verdict is not Verdict.ERROR
    assert failed <= 7  # P(more than 7 of 60 at a rate of 0.05) < 0.01


def test_false_alarms_and_drift_of_ordinary_rows_rarely_fail():
    failed = 0
    for seed in range(RUNS // 2):
        P, y, _ = sound(seed)
        result = trustml.audit(
            trustml.precomputed("probabilities"),
            P[200:],
            y[200:],
            X_cal=P[:200],
            y_cal=y[:200],
            X_ood={"any": P[:50]},
            checks={"ood": {"min_auroc": 0.0}},
            random_state=seed,
        )["ood"]
        assert result.verdict is not Verdict.ERROR
        failed += result.verdict is Verdict.FAIL
    assert failed <= 5  # P(more than 5 of 30 at a rate of 0.05) < 0.01
