"""Wealth rises against exchangeability only, whatever the bet."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom

from trustml.evidence import (
    Composite,
    PlugIn,
    Power,
    SimpleJumper,
    SimpleMixture,
    betting_martingale,
    pvalues,
)
from trustml.evidence._bets import BETS, log_mixture
from trustml.evidence._online_pvalues import OnlineRanks


@pytest.mark.parametrize(
    "bet", [*sorted(set(BETS) - {"mixture", "composite"}), Power(0.2), PlugIn(4), SimpleJumper(1)]
)
def test_wealth_is_a_fair_game(bet: object) -> None:
    # E[wealth after p] = wealth before, for p uniform, at the start and after some p-values.
    for past in ([], [0.2, 0.9, 0.4], [0.01] * 20):
        before = betting_martingale([*past, 1.0], bet)[-2] if past else 1.0
        edges = np.linspace(0, 1, 41)[1:-1]
        after = quad(
            lambda p, past=past: betting_martingale([*past, p], bet)[-1], 0, 1,
            points=edges, limit=200,
        )[0]  # fmt: skip
        assert after == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("bet", ["jumper", Composite([SimpleJumper(j) for j in (0.001, 0.1, 1)])])
def test_the_mean_over_all_orders_is_one_exactly(bet: object) -> None:
    # The stakes are linear in each p-value, so the mean over its uniform number is the wealth at
    # 1/2; scores in any order are then the whole of exchangeability. Ties are among them.
    scores = np.array([0.3, 1.0, 1.0, 2.5, 7.0, 9.0])
    halves = np.full(4, 0.5)
    orders = [scores[list(order)] for order in permutations(range(6))]
    online = [OnlineRanks(s[:2]).add(s[2:], halves) for s in orders]
    assert np.mean([betting_martingale(p, bet)[-1] for p in online]) == pytest.approx(1, abs=1e-12)
    # Against one fixed calibration set the same bet is not fair: what it learns of these rows
    # pays again and again.
    fixed = [pvalues(s[:2], s[2:], uniforms=halves) for s in orders]
    assert np.mean([betting_martingale(p, bet)[-1] for p in fixed]) > 1.0001


@pytest.mark.parametrize("bet", BETS)
def test_ville_holds_and_a_change_is_found(bet: str) -> None:
    rng, runs = np.random.default_rng(0), 300
    false = sum(betting_martingale(rng.uniform(size=200), bet).max() >= 10 for _ in range(runs))
    assert false <= binom.ppf(1 - 1e-4, runs, 0.1)
    change = np.concatenate([rng.uniform(size=100), rng.beta(0.3, 1, size=300)])
    log_wealth = betting_martingale(change, bet, log=True)
    assert log_wealth[:100].max() < np.log(100)
    assert log_wealth.max() > np.log(100)


def test_only_the_histogram_finds_what_is_neither_small_nor_large() -> None:
    rng = np.random.default_rng(1)
    middle = rng.beta(4, 4, size=400)
    assert betting_martingale(middle, "plugin", log=True)[-1] > np.log(1e6)
    assert betting_martingale(middle, "power", log=True)[-1] < 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=15))
def test_bets_equal_their_definitions(p: list[float]) -> None:
    values = np.array(p)
    kappa = 0.3
    np.testing.assert_allclose(
        betting_martingale(p, Power(kappa)), np.cumprod(kappa * values ** (kappa - 1)), rtol=1e-9
    )
    average = quad(lambda k: np.prod(k * values ** (k - 1)), 0, 1, epsabs=0)[0]
    assert betting_martingale(p, SimpleMixture())[-1] == pytest.approx(average, rel=1e-5)
    wealth = 1.0
    for i, now in enumerate(p):
        counts = np.histogram(p[:i], 4, (0, 1))[0] + 1
        wealth *= 4 * counts[min(int(4 * now), 3)] / counts.sum()
    assert betting_martingale(p, PlugIn(4))[-1] == pytest.approx(wealth, rel=1e-9)
    parts = [Power(0.2), PlugIn(3)]
    np.testing.assert_allclose(
        betting_martingale(p, Composite(parts)),
        np.mean([betting_martingale(p, part) for part in parts], axis=0),
        rtol=1e-9,
    )


@pytest.mark.parametrize(("n", "surprise"), [(0, 0.0), (1, 0.0), (5, 2.0), (5, 40.0), (200, 150.0)])
def test_the_mixture_is_a_fair_game(n: int, surprise: float) -> None:
    # In terms of -log p, whose density is exp(-x): p itself underflows long before its share ends.
    after = quad(lambda x: math.exp(log_mixture(n + 1, surprise + x) - x), 0, np.inf, limit=500)[0]
    assert math.log(after) == pytest.approx(log_mixture(n, surprise), abs=1e-6)


@pytest.mark.parametrize("n", [3, 2000, 10**6])
@pytest.mark.parametrize("surprise", [0.0, 0.3, 1.0, 1.001, 4.0, 100.0])
def test_the_mixture_is_stable_everywhere(n: int, surprise: float) -> None:
    s = surprise * (n + 2)
    best = min(1.0, n / s) if s else 1.0
    top = n * math.log(best) + (1 - best) * s  # the integrand's maximum, on a unit interval
    assert top - 2 * math.log(n + s + 2) <= log_mixture(n, s) <= top
    step = log_mixture(n, s + 1e-3) - log_mixture(n, s)  # the mean of 1 - k, times 1e-3
    assert 0 < step < 1e-3


def test_long_streams_overflow_only_without_log() -> None:
    p = np.full(4000, 0.01)
    for bet in BETS:
        assert betting_martingale(p, bet)[-1] == np.inf
        assert np.isfinite(betting_martingale(p, bet, log=True)).all()


def test_a_p_value_of_zero_ruins_the_null_for_good() -> None:
    for bet in ("power", "mixture", Composite([Power(), SimpleJumper()])):
        assert betting_martingale([0.0, 1.0], bet).tolist() == [np.inf, np.inf]


def test_kinds() -> None:
    wealth = betting_martingale(torch.tensor([0.2, 0.7], dtype=torch.float64))
    assert isinstance(wealth, torch.Tensor)
    assert (wealth > 0).all()


@pytest.mark.parametrize(
    ("call", "text"),
    [(lambda: betting_martingale([]), "empty"), (lambda: betting_martingale([1.2]), r"\[0, 1\]"),
     (lambda: betting_martingale([0.5], "drunkard"), "plugin"), (lambda: Power(1), "kappa"),
     (lambda: SimpleJumper(0), "jump"), (lambda: PlugIn(1), "bins")],
)  # fmt: skip
def test_bad_input(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize("bets", [[], ["jumper"]])
def test_a_composite_of_no_bets(bets: list) -> None:
    with pytest.raises(TypeError, match="Bet"):
        Composite(bets)
