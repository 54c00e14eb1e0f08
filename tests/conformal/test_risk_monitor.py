"""The watch over a risk: its limit, its alarm, its face."""

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from trustml.conformal import RiskMonitor, SplitClassifier
from trustml.evidence import mean_martingale, mean_upper_bound


def test_with_a_limit_it_is_the_martingale_of_the_losses() -> None:
    rng = np.random.default_rng(0)
    losses = np.concatenate([rng.random(300) * 0.4, rng.random(300)])
    monitor = RiskMonitor(limit=0.2, tolerance=0.05).fit().update(losses[:1]).update(losses[1])
    monitor.update(losses[2:])
    path = monitor.trace()
    np.testing.assert_allclose(path.log_wealth, mean_martingale(losses, 0.25, log=True))
    assert path.limit == monitor.limit_ == 0.25
    assert path.alpha == 0.01
    assert path.alarm == monitor.alarm_ == (path.log_wealth >= np.log(100)).argmax()
    assert monitor.alarm_ > 300
    monitor.update(np.zeros(5000))
    assert monitor.trace().log_wealth[-1] < 0
    assert monitor.alarm_ == path.alarm  # what has rung has rung
    assert clone(monitor).fit().alarm_ is None


def test_reference_losses_give_the_limit_and_take_half_of_alpha() -> None:
    reference = np.random.default_rng(0).random(400) < 0.1
    monitor = RiskMonitor(alpha=0.1).fit(reference)
    assert monitor.limit_ == mean_upper_bound(reference, 0.05)
    assert monitor.trace().alpha == 0.05
    assert len(monitor.trace().loss) == 0


def test_misses_of_sets_are_watched(digits: object) -> None:
    d = digits
    sets = SplitClassifier(d.model).fit(d.X_cal, d.y_cal).predict_set(d.X, alpha=0.1)
    missed = ~sets[np.arange(len(d.y)), d.y]
    monitor = RiskMonitor(limit=0.1, tolerance=0.03).fit()
    assert monitor.update(missed).alarm_ is None
    assert monitor.update(~missed).alarm_ < 700
    assert "alarm at step" in repr(monitor.trace())
    assert monitor.trace().plot().get_xlabel() == "step"


@pytest.mark.parametrize("known", [True, False])
def test_false_alarms_are_as_rare_as_promised_even_when_the_stream_reacts(known: bool) -> None:
    rng, runs, alarms = np.random.default_rng(1), 300, 0
    for _ in range(runs):
        monitor = RiskMonitor(limit=0.2 if known else None, alpha=0.1)
        monitor.fit(None if known else rng.random(500) < 0.2)
        # Losses whose spread depends on the past, their mean never: 0.2 at each step.
        steps = rng.random(300)
        wild = np.concatenate([[True], steps[:-1] < 0.5])
        losses = np.where(wild, steps < 0.2, 0.4 * steps)
        alarms += monitor.update(losses).alarm_ is not None
    assert alarms <= binom.ppf(1 - 1e-4, runs, 0.1)


def test_bad_input() -> None:
    with pytest.raises(NotFittedError):
        RiskMonitor(limit=0.1).update([0.0])
    for monitor, losses, text in (
        (RiskMonitor(), None, "either limit"),
        (RiskMonitor(limit=0.1), [0.0, 1.0], "not both"),
        (RiskMonitor(limit=1.2), None, "limit must be"),
        (RiskMonitor(limit=0.9, tolerance=0.2), None, "limit must be"),
        (RiskMonitor(limit=0.9, tolerance=-0.2), None, "tolerance"),
        (RiskMonitor(limit=0.1, alpha=0.0), None, "alpha"),
        (RiskMonitor(), [[0.1]], "1-d"),
    ):
        with pytest.raises(ValueError, match=text):
            monitor.fit(losses)
    with pytest.raises(ValueError, match="lie in"):
        RiskMonitor(limit=0.1).fit().update([1.1])
