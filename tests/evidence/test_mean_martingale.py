"""Wealth that rises only where the mean loss is above the limit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from trustml.evidence import mean_martingale
from trustml.evidence._mean_martingale import _STAKES, MeanGambler


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 5), min_size=1, max_size=10), st.floats(0.1, 4.9))
def test_it_is_the_average_of_fixed_stakes_and_fair_at_the_limit(
    losses: list[float], limit: float
) -> None:
    values = np.array(losses)
    each = [np.prod(1 + stake * (values / limit - 1)) for stake in _STAKES]
    found = mean_martingale(values, limit, bound=5)
    assert found[-1] == pytest.approx(np.mean(each), rel=1e-9)
    # A next loss of 0 or 5 with mean at the limit leaves the expected wealth where it was.
    low, high = (mean_martingale([*losses, end], limit, bound=5)[-1] for end in (0.0, 5.0))
    after = (1 - limit / 5) * low + limit / 5 * high
    assert after == pytest.approx(found[-1], rel=1e-9)


def test_a_mean_below_the_limit_seldom_rings_and_one_above_does() -> None:
    rng, runs = np.random.default_rng(0), 300
    false = sum(mean_martingale(rng.random(300) < 0.2, 0.2).max() >= 10 for _ in range(runs))
    assert false <= binom.ppf(1 - 1e-4, runs, 0.1)
    assert mean_martingale(rng.random(1000) < 0.3, 0.2, log=True)[-1] > np.log(1e3)
    assert mean_martingale(np.full(100, 0.35), 0.2)[-1] > 1e3  # without variance
    assert mean_martingale(rng.random(1000) < 0.1, 0.2)[-1] < 1e-3


def test_batches_kinds_and_long_streams() -> None:
    rng = np.random.default_rng(1)
    losses, gambler = rng.random(300), MeanGambler(0.4)
    parts = np.concatenate([gambler.bet(part) for part in np.split(losses, [1, 40, 40, 200])])
    np.testing.assert_allclose(parts, mean_martingale(losses, 0.4, log=True), rtol=1e-10)
    assert isinstance(mean_martingale(torch.from_numpy(losses), 0.4), torch.Tensor)
    ones = np.ones(10**5)
    assert mean_martingale(ones, 0.1)[-1] == np.inf
    assert np.isfinite(mean_martingale(ones, 0.1, log=True)).all()


@pytest.mark.parametrize(
    ("call", "text"),
    [(lambda: mean_martingale([0.5], 0), "limit"), (lambda: mean_martingale([0.5], 1), "limit"),
     (lambda: mean_martingale([1.5], 0.5), "lie in"), (lambda: mean_martingale([], 0.5), "empty"),
     (lambda: mean_martingale([[0.5]], 0.5), "1-d"),
     (lambda: mean_martingale([np.nan], 0.5), "lie in")],
)  # fmt: skip
def test_bad_input(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
