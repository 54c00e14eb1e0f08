"""The p-value of a difference holds wherever the two means lie."""

import numpy as np
import pytest
from scipy.stats import binom

from trustml.evidence import mean_difference_pvalue

RUNS = 1000


def draws(p: float, n: int, rng: np.random.Generator, runs: int = RUNS) -> np.ndarray:
    return (rng.random((n, runs)) < p).astype(float)


@pytest.mark.parametrize("method", ["hoeffding-bentkus", "clopper-pearson"])
@pytest.mark.parametrize(
    ("p", "q", "n", "k"), [(0.4, 0.3, 90, 90), (1.0, 0.9, 40, 120), (0.11, 0.01, 150, 60)]
)
def test_rejects_a_true_difference_no_more_often_than_the_rate(
    method: str, p: float, q: float, n: int, k: int
) -> None:
    rng = np.random.default_rng(0)
    found = mean_difference_pvalue(draws(p, n, rng), draws(q, k, rng), 0.0999, method)
    for delta in (0.05, 0.1, 0.3):
        assert (found <= delta).sum() <= binom.ppf(1 - 1e-5, RUNS, delta)


def test_bets_hold_too() -> None:
    rng = np.random.default_rng(1)
    losses, reference = draws(0.4, 80, rng, 200), draws(0.3, 80, rng, 200)
    assert (mean_difference_pvalue(losses, reference, 0.0999, "wsr") <= 0.1).sum() <= 20


def test_sees_that_equal_means_are_equal() -> None:
    rng = np.random.default_rng(2)
    losses, reference = draws(0.3, 400, rng, 200), draws(0.3, 400, rng, 200)
    assert (mean_difference_pvalue(losses, reference, 0.15, "clopper-pearson") <= 0.1).mean() > 0.8


def test_is_the_largest_combination_over_the_unknown_mean() -> None:
    losses, reference = np.array([1.0] * 3 + [0.0] * 27), np.array([1.0] * 12 + [0.0] * 28)
    b = np.linspace(0, 0.8, 20001)
    product = (binom.cdf(3, 30, b + 0.2) * binom.sf(11, 40, b)).max()
    exact = product * (1 - np.log(product))
    p = mean_difference_pvalue(losses, reference, 0.2, "clopper-pearson")
    assert exact <= p <= 1.5 * exact


def test_falls_with_the_level_and_mirrors() -> None:
    rng = np.random.default_rng(3)
    losses, reference = rng.random(60) * 2, rng.random(70) * 2
    p = [mean_difference_pvalue(losses, reference, a, bound=2.0) for a in (0.1, 0.5, 1.0, 1.9)]
    assert (np.diff(p) <= 0).all()
    mirrored = mean_difference_pvalue(2 - reference, 2 - losses, 0.5, bound=2.0)
    assert mirrored == pytest.approx(p[1], rel=0.05)


@pytest.mark.parametrize(
    ("change", "text"),
    [({"alpha": 1.0}, "alpha"), ({"alpha": 0.0}, "alpha"), ({"losses": [2.0]}, "lie in"),
     ({"losses_reference": [np.nan]}, "lie in"), ({"losses": [[0.0, 1.0]]}, "same columns"),
     ({"method": "t"}, "method")],
)  # fmt: skip
def test_bad_input(change: dict, text: str) -> None:
    arguments = {"losses": [0.0, 1.0], "losses_reference": [0.0, 1.0], "alpha": 0.5}
    with pytest.raises(ValueError, match=text):
        mean_difference_pvalue(**(arguments | change))
