"""Wealth rises against exchangeability only; e-values and p-values translate."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from trustml.evidence import betting_martingale, e_to_p, p_to_e


def test_ville_holds_and_a_change_is_found() -> None:
    rng, runs = np.random.default_rng(0), 300
    false = sum(betting_martingale(rng.uniform(size=200)).max() >= 10 for _ in range(runs))
    assert false <= binom.ppf(1 - 1e-4, runs, 0.1)
    change = np.concatenate([rng.uniform(size=100), rng.beta(0.5, 1, size=200)])
    log_wealth = betting_martingale(change, log=True)
    assert log_wealth[:100].max() < np.log(20)
    assert log_wealth[-1] > np.log(20)


def test_wealth_is_a_fair_game() -> None:
    # E[wealth after p] = wealth before, for p uniform: midpoint sums integrate it exactly.
    past, grid = [0.2, 0.9, 0.4], (np.arange(1000) + 0.5) / 1000
    before = betting_martingale(past)[-1]
    after = [betting_martingale([*past, p])[-1] for p in grid]
    assert np.mean(after) == pytest.approx(before, rel=1e-9)


def test_long_streams_overflow_only_without_log() -> None:
    p = np.full(4000, 0.01)
    assert betting_martingale(p)[-1] == np.inf
    assert np.isfinite(betting_martingale(p, log=True)).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_translations(p: list[float]) -> None:
    assert (e_to_p(p_to_e(p)) >= np.asarray(p) - 1e-12).all()
    wealth = betting_martingale(torch.tensor(p, dtype=torch.float64))
    assert isinstance(wealth, torch.Tensor)
    assert (wealth > 0).all()


def test_p_to_e_has_expectation_one() -> None:
    grid = (np.arange(10**6) + 0.5) / 10**6
    assert p_to_e(grid, 0.5).mean() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "text"),
    [(lambda: betting_martingale([]), "empty"), (lambda: betting_martingale([1.2]), r"\[0, 1\]"),
     (lambda: betting_martingale([0.5], jump=0), "jump"), (lambda: e_to_p([-1.0]), "logs"),
     (lambda: p_to_e([0.5], kappa=1), "kappa"), (lambda: e_to_p([np.nan]), "NaN")],
)  # fmt: skip
def test_bad_input(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
