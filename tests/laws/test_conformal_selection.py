"""False discovery rates of selection and of e-values, false alarms of martingales."""

import numpy as np
import pytest
from scipy.stats import binom

import trustml
from trustml.conformal import ConformalSelection, ExchangeabilityTest
from trustml.evidence import (
    betting_martingale,
    discovery_evalues,
    e_benjamini_hochberg,
    evalues,
    merge_evalues,
    online_pvalues,
    pvalues,
    storey,
)
from trustml.evidence._bets import BETS

RUNS = 300


def below(shares: list[float], rate: float) -> bool:
    """Whether a mean in [0, 1] is at most ``rate``, but for one false alarm in 10^4.

    An empirical Bernstein bound (Maurer and Pontil, 2009).
    """
    x, log = np.array(shares), np.log(2 / 1e-4)
    spare = np.sqrt(2 * x.var(ddof=1) * log / len(x)) + 7 * log / (3 * (len(x) - 1))
    return x.mean() <= rate + spare


def share(picked: np.ndarray, null: np.ndarray) -> float:
    return (picked & null).sum() / max(1, picked.sum())


@pytest.mark.parametrize("ties", ["conservative", "random"])
@pytest.mark.parametrize("coarse", [False, True])
def test_selection_holds_its_rate_with_any_model(ties: str, coarse: bool) -> None:
    rng, q, wrong, found, bad = np.random.default_rng(0), 0.2, [], [], []
    model = trustml.precomputed("values")
    for run in range(RUNS):
        x = rng.normal(size=400)
        y = x + (0.3 + 0.5 * (x > 0)) * rng.normal(size=400)
        wanted = y > 0.5
        for predicted, shares in (
            (x.round(0) if coarse else x, wrong),
            (rng.normal(size=400), bad),
        ):
            selection = ConformalSelection(model, above=0.5, ties=ties, random_state=run)
            picked = selection.fit(predicted[:200], y[:200]).select(predicted[200:], q)
            shares.append(share(picked, ~wanted[200:]))
            if shares is wrong:
                found.append((picked & wanted[200:]).sum() / wanted[200:].sum())
    assert below(wrong, q)
    assert below(bad, q)  # a model that knows nothing picks little, and still within its rate
    if ties == "random" or not coarse:  # many equal predictions cannot be split otherwise
        assert np.mean(wrong) > 0.5 * q  # the rate is used
        assert np.mean(found) > 0.5


@pytest.mark.parametrize("ties", ["conservative", "random"])
def test_weighted_selection_holds_its_rate_where_the_plain_one_breaks(ties: str) -> None:
    # The model sees x alone; rows of kind z = 1 are wanted seldom, and come five times as often.
    rng, q, weighted, plain, found = np.random.default_rng(7), 0.2, [], [], []
    model = trustml.wrap(lambda X: X[:, 0], task="regression")
    ratio = lambda X: np.where(X[:, 1] == 1, 0.5 / 0.1, 0.5 / 0.9)  # noqa: E731
    for run in range(RUNS):
        x = rng.normal(size=350)
        z = rng.random(350) < np.where(np.arange(350) < 300, 0.1, 0.5)
        wanted = rng.random(350) < np.where(z, 0.3, 1 / (1 + np.exp(-4 * x - 1)))
        X, y = np.stack([x, z], 1), np.where(wanted, 1.0, -1.0)
        for weights, shares in ((ratio, weighted), (None, plain)):
            selection = ConformalSelection(model, 0.0, ties=ties, weights=weights, random_state=run)
            picked = selection.fit(X[:300], y[:300]).select(X[300:], q)
            shares.append(share(picked, ~wanted[300:]))
            if weights is not None:
                found.append(picked.sum())
    assert below(weighted, q)
    assert not below(plain, q)
    assert np.mean(found) > 0.3


def test_selection_p_values_are_small_for_the_unwanted_as_seldom_as_they_say() -> None:
    rng, model, levels = np.random.default_rng(1), trustml.precomputed("values"), [0.05, 0.2, 0.5]
    hits = []
    for run in range(2000):
        x = rng.normal(size=31).round(1)
        y = x + rng.normal(size=31)
        selection = ConformalSelection(model, above=0.0, ties="random", random_state=run)
        p = selection.fit(x[:30], y[:30]).p_values(x[30:])[0]
        hits.append([p <= level and y[30] <= 0 for level in levels])
    for count, level in zip(np.sum(hits, axis=0), levels, strict=True):
        assert count <= binom.ppf(1 - 1e-4, 2000, level)


def test_storey_and_e_bh_hold_their_rate_with_conformal_evidence() -> None:
    rng, q, null = np.random.default_rng(2), 0.2, np.arange(60) < 30
    rates = {"storey": [], "storey, ties": [], "e": [], "averaged": []}
    found, sums = [], []
    for _ in range(RUNS):
        pool = np.abs(rng.normal(size=400))
        new = np.abs(np.where(null, 0, 3.5) + rng.normal(size=60))
        p = pvalues(pool[:200], new)
        rates["storey"].append(share(storey(p, q), null))
        rates["storey, ties"].append(
            share(storey(pvalues(pool[:200].round(), new.round()), q, 0.3), null)
        )
        rates["e"].append(share(e_benjamini_hochberg(evalues(pool[:200] ** 6, new**6), q), null))
        # Calibration rows split in two ways; the e-values of both are averaged.
        split = [discovery_evalues(half, new, q / 2) for half in (pool[:200], pool[200:])]
        sums.append(split[0][null].sum() / 30)
        picked = e_benjamini_hochberg(merge_evalues(split), q)
        rates["averaged"].append(share(picked, null))
        found.append([storey(p, q)[30:].mean(), picked[30:].mean()])
    for name, shares in rates.items():
        assert below(shares, q), name
    # Over the nulls the e-values' mean is at most 1.
    assert np.mean(sums) <= 1 + 4 * np.std(sums) / np.sqrt(RUNS)
    assert (np.mean(found, axis=0) > 0.5).all()


@pytest.mark.parametrize("bet", BETS)
def test_alarms_without_a_change_are_as_rare_as_ville_says(bet: str) -> None:
    rng, alarms = np.random.default_rng(3), 0
    for run in range(RUNS):
        scores = rng.poisson(3, size=220)  # exchangeable, with many ties
        p = online_pvalues(scores[20:], run, cal_scores=scores[:20])
        alarms += betting_martingale(p, bet).max() >= 10
    assert alarms <= binom.ppf(1 - 1e-4, RUNS, 0.1)


@pytest.mark.parametrize("bet", BETS)
def test_a_drift_is_found(bet: str) -> None:
    rng, found = np.random.default_rng(4), 0
    for run in range(20):
        scores = np.concatenate([rng.normal(size=200), rng.normal(2.0, 1.0, size=300)])
        p = online_pvalues(scores[100:], run, cal_scores=scores[:100])
        found += betting_martingale(p, bet, log=True).max() >= np.log(100)
    assert found == 20


def test_the_watch_rings_without_a_change_at_most_as_often_as_alpha() -> None:
    rng, model, alarms = np.random.default_rng(6), trustml.precomputed("probabilities"), 0
    for run in range(RUNS):
        # Wrong probabilities: the promise does not need a good model.
        p, y = rng.dirichlet([1, 1, 1], size=260), rng.integers(3, size=260)
        test = ExchangeabilityTest(model, "aps", alpha=0.1, random_state=run)
        alarms += test.fit(p[:60], y[:60]).update(p[60:], y[60:]).alarm_ is not None
    assert alarms <= binom.ppf(1 - 1e-4, RUNS, 0.1)


def test_p_values_of_one_fixed_calibration_set_raise_false_alarms() -> None:
    # Each is uniform, but they share the calibration rows; the gambler learns these by heart.
    rng, fixed = np.random.default_rng(5), 0
    for run in range(100):
        scores = rng.normal(size=1020)
        p = pvalues(scores[:20], scores[20:], run)
        fixed += betting_martingale(p, "plugin", log=True).max() >= np.log(100)
    assert fixed > 50
